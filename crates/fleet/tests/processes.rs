//! Supervision with real processes: start, signal, crash, take down.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why and ends")]

use std::path::PathBuf;
use std::time::Duration;

use fleet::down::down;
use fleet::file::FleetFile;
use fleet::handle::State;
use fleet::layout::Layout;
use fleet::plan::Plan;
use fleet::process::{PidRecord, ProcessState, of_instance, parse_signal};
use fleet::{Fleet, block};

const FILE: &str = "
name: jobs
hub: {nodes: 1}
clusters:
  - name: east
    workloads:
      - {name: job, mesh: false, command: [sleep, '1000']}
      - {name: stubborn, mesh: false, command: [sh, -c, 'trap \"\" TERM; echo deaf; while :; do sleep 1000; done']}
";

/// A fleet of two jobs, without the parts of the mesh.
struct Ground {
    fleet: Fleet,
    registry: PathBuf,
    directory: PathBuf,
    _temporary: tempfile::TempDir,
}

fn ground() -> Ground {
    let temporary = tempfile::tempdir().expect("a directory");
    let (registry, directory) = (temporary.path().join("claims"), temporary.path().join("fleet"));
    let instance = format!("{:032x}", rand::random::<u128>());
    let claim = block::claim(&registry, &directory, &instance).expect("a block");
    let plan = Plan::new(&FleetFile::parse(FILE).expect("valid"), claim.block);
    let state = State { instance, binaries: PathBuf::from("/nowhere"), registry: registry.clone(), plan };
    let layout = Layout::new(&directory);
    std::fs::create_dir_all(&directory).expect("created");
    std::fs::write(layout.state(), serde_json::to_vec(&state).expect("json")).expect("written");
    Ground { fleet: Fleet::open(&directory).expect("opens"), registry, directory, _temporary: temporary }
}

impl Ground {
    fn spawn(&self, name: &str) -> PidRecord {
        self.fleet.spawn(&self.fleet.process(name).expect("planned")).expect("starts")
    }

    async fn assert_nothing_is_left(&self) {
        assert!(of_instance(&self.fleet.state.instance).is_empty(), "processes are left");
        assert!(!self.directory.exists(), "files are left");
        assert!(block::claims(&self.registry).is_empty(), "the claim is left");
    }
}

const GRACE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn down_leaves_neither_process_nor_file_nor_claim() {
    let ground = ground();
    let (job, stubborn) = (ground.spawn("east/job-1/app"), ground.spawn("east/stubborn-1/app"));
    let log = ground.fleet.layout.log("east/stubborn-1/app");
    soon("it ignores TERM", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("deaf"))).await;
    assert_eq!((job.state(), stubborn.state()), (ProcessState::Running, ProcessState::Running));
    let downed = down(&ground.directory, &ground.registry, GRACE).await.expect("down");
    assert!(!job.is_alive() && !stubborn.is_alive());
    assert!(downed.ended >= 2 && downed.killed >= 1, "{downed:?}: the stubborn one ignores TERM");
    ground.assert_nothing_is_left().await;
}

#[tokio::test]
async fn a_killed_process_is_seen_and_started_again() {
    let ground = ground();
    let first = ground.spawn("east/job-1/app");
    let kill = parse_signal("KILL").expect("a signal");
    let again = ground.fleet.spawn(&ground.fleet.process("east/job-1/app").expect("planned"));
    assert!(again.expect_err("it runs already").to_string().contains("runs already"));
    ground.fleet.signal("east/job-1/app", kill).await.expect("killed");
    assert_eq!(first.state(), ProcessState::Dead);
    let gone = ground.fleet.signal("east/job-1/app", kill).await.expect_err("it is gone");
    assert_eq!(gone.to_string(), "east/job-1/app does not run");
    let second = ground.fleet.start("east/job-1/app", Duration::from_secs(5)).await.expect("starts");
    assert_ne!(first.pid, second.pid);
    down(&ground.directory, &ground.registry, GRACE).await.expect("down");
}

#[tokio::test]
async fn stop_and_cont_show_in_the_state_and_down_ends_a_stopped_process() {
    let ground = ground();
    let job = ground.spawn("east/job-1/app");
    let signal = |name| ground.fleet.signal("east/job-1/app", parse_signal(name).expect("a signal"));
    signal("STOP").await.expect("stopped");
    reaches(&job, ProcessState::Stopped).await;
    signal("SIGCONT").await.expect("continued");
    reaches(&job, ProcessState::Running).await;
    signal("STOP").await.expect("stopped");
    down(&ground.directory, &ground.registry, GRACE).await.expect("down");
    ground.assert_nothing_is_left().await;
}

/// A signal takes effect soon, not at once.
async fn reaches(record: &PidRecord, state: ProcessState) {
    soon(&format!("{state:?}"), || record.state() == state).await;
}

/// Waits for a level.
async fn soon(what: &str, level: impl Fn() -> bool) {
    let looked = tokio::time::timeout(Duration::from_secs(10), async {
        while !level() {
            tokio::task::yield_now().await;
        }
    });
    looked.await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn down_finds_a_process_whose_record_was_never_written() {
    let ground = ground();
    let job = ground.spawn("east/job-1/app");
    std::fs::remove_dir_all(ground.directory.join("run")).expect("removed");
    down(&ground.directory, &ground.registry, GRACE).await.expect("down");
    assert!(!job.is_alive());
    ground.assert_nothing_is_left().await;
}

#[tokio::test]
async fn down_works_from_the_claim_alone() {
    let ground = ground();
    let job = ground.spawn("east/job-1/app");
    std::fs::remove_file(ground.fleet.layout.state()).expect("removed");
    down(&ground.directory, &ground.registry, GRACE).await.expect("down");
    assert!(!job.is_alive());
    ground.assert_nothing_is_left().await;
}

#[tokio::test]
async fn a_reused_pid_is_never_signalled() {
    let ground = ground();
    let mut stranger = tokio::process::Command::new("sleep").arg("1000").kill_on_drop(true).spawn().expect("starts");
    let pid = i32::try_from(stranger.id().expect("a pid")).expect("fits");
    let reused = PidRecord { pid, start_time: 1 };
    assert_eq!(reused.state(), ProcessState::Dead);
    assert!(!reused.signal(parse_signal("KILL").expect("a signal")).expect("asked"));
    let record = ground.fleet.layout.pid("east/job-1/app");
    std::fs::create_dir_all(record.parent().expect("a parent")).expect("created");
    std::fs::write(&record, serde_json::to_vec(&reused).expect("json")).expect("written");
    down(&ground.directory, &ground.registry, GRACE).await.expect("down");
    assert!(stranger.try_wait().expect("asked").is_none(), "a stranger was killed");
}

#[tokio::test]
async fn a_directory_that_is_no_fleet_is_not_touched() {
    let temporary = tempfile::tempdir().expect("a directory");
    let precious = temporary.path().join("precious");
    std::fs::write(&precious, "data").expect("written");
    let refused = down(temporary.path(), &temporary.path().join("claims"), GRACE).await;
    assert!(refused.expect_err("no fleet").to_string().contains("is not the directory of a fleet"));
    assert!(precious.exists());
}

#[test]
fn claims_are_exclusive_until_nobody_stands_behind_them() {
    let temporary = tempfile::tempdir().expect("a directory");
    let registry = temporary.path().join("claims");
    let first = block::claim(&registry, &temporary.path().join("a"), "instance-a").expect("a block");
    let second = block::claim(&registry, &temporary.path().join("b"), "instance-b").expect("a block");
    assert_ne!(first.block, second.block);
    // The claimant vanished and no process carries the instance: a crash.
    let mut stale = first.clone();
    stale.claimant = PidRecord { pid: i32::MAX, start_time: 1 };
    let path = registry.join(first.block.to_string());
    std::fs::write(&path, serde_json::to_vec(&stale).expect("json")).expect("written");
    let third = block::claim(&registry, &temporary.path().join("c"), "instance-c").expect("a block");
    assert_eq!(third.block, first.block, "the stale claim is taken over");
    // Half written by a crash.
    std::fs::write(&path, "{").expect("written");
    let fourth = block::claim(&registry, &temporary.path().join("d"), "instance-d").expect("a block");
    assert_eq!(fourth.block, first.block);
    block::release(&registry, fourth.block, "instance-a").expect("asked");
    assert_eq!(block::claims(&registry).len(), 2, "another's claim is not released");
    block::release(&registry, fourth.block, "instance-d").expect("released");
    assert_eq!(block::claims(&registry).len(), 1);
}
