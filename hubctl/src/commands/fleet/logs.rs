//! `fleet logs`.

use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use anyhow::Result;
use fleet::{Fleet, Hint};

use crate::output;

/// Between two looks at a growing log.
const POLL: Duration = Duration::from_millis(200);

pub(super) async fn run(fleet: &Fleet, process: &str, follow: bool) -> Result<u8> {
    let process = fleet.process(process)?;
    let path = fleet.layout.log(&process.name);
    let mut log = std::fs::File::open(&path).map_err(|_| {
        Hint::error(format!("{} wrote nothing yet", process.name), format!("its log will be {}", path.display()))
    })?;
    loop {
        let mut piece = Vec::new();
        // In pieces, so that a log of any size passes.
        (&mut log).take(1024 * 1024).read_to_end(&mut piece)?;
        if piece.is_empty() {
            if !follow {
                return Ok(0);
            }
            // A truncated log begins anew.
            if log.stream_position()? > log.metadata()?.len() {
                log.seek(SeekFrom::Start(0))?;
            }
            tokio::time::sleep(POLL).await;
        }
        output::bytes(&piece)?;
    }
}
