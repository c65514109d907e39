//! The process: its socket, its refusals, its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use wan::{ControlError, Request, Side, ask, change_of_words};

use crate::ground::{Ground, eventually};

fn wan(words: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_isthmus-wan")).args(words).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_wrong_change_is_refused_as_a_whole_and_named() {
    let ground = Ground::new("delay=40ms");
    let before = ground.status().link;
    let change = change_of_words("left-to-right delay=1ms loss=2".split(' ')).unwrap();
    match ask(&ground.control, &Request::Set { change }) {
        Err(ControlError::Refused(problems)) => assert_eq!(problems.0[0].field, "left-to-right.loss"),
        other => panic!("{other:?}"),
    }
    assert_eq!(ground.status().link, before);
    let control = ground.control.to_str().unwrap();
    let (done, text) = wan(&["set", "--control", control, "right-to-left", "rate=20mbit"]);
    assert!(done && text.contains("right-to-left: delay=40ms rate=20mbit"), "{text}");
    let (done, text) = wan(&["rebind", "--control", control, "port"]);
    assert!(!done && text.contains("translates nothing") && text.contains("hint: set nat="), "{text}");
    let (done, text) = wan(&["show", "--control", control, "-o", "json"]);
    let shown: wan::Status = serde_json::from_str(&text).unwrap();
    assert!(done);
    assert_eq!(shown.link, ground.status().link);
}

#[test]
fn what_is_no_request_is_refused_and_the_link_goes_on() {
    let ground = Ground::new("");
    for line in ["nonsense\n".to_owned(), "{\"command\": \"fly\"}\n".to_owned(), "x".repeat(70_000)] {
        let mut stream = UnixStream::connect(&ground.control).unwrap();
        // The far end hangs up in the middle of a line that is too long.
        let _ = stream.write_all(line.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = String::new();
        let heard = BufReader::new(&stream).read_line(&mut answer);
        let refused = answer.contains("refused") && answer.contains("not a request") && answer.contains("hint");
        assert!(refused || (heard.is_err() && line.len() > 65_536), "{answer}");
    }
    assert_eq!(ground.status().left_to_right.received.packets, 0);
}

#[test]
fn sigterm_ends_it_and_leaves_nothing_behind() {
    let mut ground = Ground::new("");
    let process = rustix::process::Pid::from_child(&ground.child);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    let status = eventually("the end", || ground.child.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert!(!ground.control.exists());
    let links = ground.exec(Side::Left, "ip -o link");
    assert!(!links.contains("wan0"), "{links}");
}

#[test]
fn what_is_missing_is_said() {
    let ground = Ground::new("");
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("other.sock");
    let control = control.to_str().unwrap();
    let left = ground.name(Side::Left).to_owned();
    let check = |left: &str, more: &[&str], expect: &str| {
        let (done, text) = wan(&[&["run", "--left", left, "--right", "current", "--control", control], more].concat());
        assert!(!done && text.contains(expect) && text.contains("hint:"), "{left} {more:?}: {text}");
    };
    check("no-such", &[], "cannot open the network namespace /run/netns/no-such");
    check("/dev/null", &[], "may not enter the network namespace /dev/null");
    check(&left, &[], "cannot make the TUN device wan0");
    check(&left, &["--left-device", "w1", "--left-route", "10.0.0.0/8", "--set", "loss=x"], "both.loss");
    let twice = ["--left-device", "w1", "--left-route", "10.0.0.0/8", "--left-route", "10.0.0.0/8"];
    check(&left, &twice, "cannot configure w1");
}

/// A user who is root only in a user namespace, and owns the network namespaces that were made there.
#[test]
fn it_runs_in_a_user_namespace_and_says_what_it_lacks() {
    let program = env!("CARGO_BIN_EXE_isthmus-wan");
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("wan.sock");
    let script = format!(
        "unshare --net sh -c 'echo $$ > {dir}/pid; exec sleep 60' & while ! test -s {dir}/pid; do :; done\n\
         {program} run --left current --right /proc/$(cat {dir}/pid)/ns/net --left-address 10.9.0.1/30 --right-address 10.9.0.2/30 \
         --control {control} & while ! test -S {control}; do kill -0 $! || exit 3; done\n\
         ping -n -c 1 -W 2 10.9.0.2; code=$?; kill $!; wait $!; kill $(cat {dir}/pid); exit $code",
        dir = directory.path().display(),
        control = control.display(),
    );
    let mut child = Command::new("unshare");
    child.args(["--user", "--map-root-user", "--net", "--mount-proc", "--pid", "--fork", "sh", "-c", &script]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = eventually("the end", || child.try_wait().unwrap());
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(status.success(), "{text}");
}
