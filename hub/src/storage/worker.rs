//! One thread that owns one store, so that blocking calls never sit on the runtime.

use std::sync::mpsc;

use tokio::sync::oneshot;

use super::store::StoreError;

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A handle to the thread; clones share it. The thread ends with [`Worker::close`] or the last handle.
pub(super) struct Worker<T> {
    jobs: mpsc::Sender<Message<T>>,
}

enum Message<T> {
    Run(Job<T>),
    Close(oneshot::Sender<()>),
}

impl<T> Clone for Worker<T> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone() }
    }
}

impl<T: Send + 'static> Worker<T> {
    /// Moves the store to a new thread.
    pub(super) fn start(name: &str, mut store: T) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel();
        let run = move || {
            while let Ok(message) = queue.recv() {
                match message {
                    Message::Run(job) => job(&mut store),
                    Message::Close(done) => {
                        // The file lock goes with the store; whoever waits may open it again.
                        drop(store);
                        let _ = done.send(());
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        thread.map_err(|_| StoreError::Closed)?;
        Ok(Self { jobs })
    }

    /// Runs a job on the thread, after all jobs that were sent before.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let (done, answer) = oneshot::channel();
        let job = Box::new(move |store: &mut T| {
            let _ = done.send(job(store));
        });
        self.jobs.send(Message::Run(job)).map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Drops the store and ends the thread; later jobs fail with [`StoreError::Closed`].
    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Message::Close(done)).is_ok() {
            let _ = closed.await;
        }
    }
}
