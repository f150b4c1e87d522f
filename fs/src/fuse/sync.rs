//! Requests that wait for the disk.
//!
//! A sync takes as long as many other requests together, and there are few threads to answer them. So one sync at a
//! time is done by the thread that reads the request, at once; those that come meanwhile are left to a thread of
//! their own, which takes all that wait and makes them durable together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use fuser::{Errno, ReplyEmpty};

use super::empty;
use crate::overlay::{Durable, Ino, Overlay};

/// The syncs of one mount.
pub(super) struct Syncs {
    overlay: Arc<Overlay>,
    /// A thread that answers requests is at a sync.
    busy: AtomicBool,
    /// To the thread that does the others, which is started when it is first needed.
    others: Mutex<Option<Sender<Waiting>>>,
}

/// A request that was not answered yet.
struct Waiting {
    ino: Ino,
    durable: Durable,
    reply: ReplyEmpty,
}

impl Syncs {
    pub fn new(overlay: Arc<Overlay>) -> Self {
        Self {
            overlay,
            busy: AtomicBool::new(false),
            others: Mutex::default(),
        }
    }

    /// Answers FSYNC or FSYNCDIR, sooner or later.
    pub fn sync(&self, ino: Ino, data_only: bool, reply: ReplyEmpty) {
        // The kernel takes this for success, and asks no more.
        if !self.overlay.keeps_changes() {
            return reply.error(Errno::ENOSYS);
        }
        let durable = match data_only {
            true => Durable::Data,
            false => Durable::All,
        };
        if self.busy.swap(true, Ordering::Acquire) {
            return self.hand_over(Waiting { ino, durable, reply });
        }
        let result = self.overlay.sync(ino, durable);
        self.busy.store(false, Ordering::Release);
        empty(reply, result);
    }

    fn hand_over(&self, waiting: Waiting) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = others.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel();
            let overlay = Arc::clone(&self.overlay);
            // Without a thread the receiver is dropped, and the request comes back below.
            let _ = thread::Builder::new()
                .name("mica-sync".to_owned())
                .spawn(move || work(&overlay, &receiver));
            sender
        });
        if let Err(mpsc::SendError(Waiting { ino, durable, reply })) = sender.send(waiting) {
            drop(others);
            empty(reply, self.overlay.sync(ino, durable));
        }
    }
}

/// Answers all that wait, together, until the mount is gone.
fn work(overlay: &Overlay, waiting: &Receiver<Waiting>) {
    while let Ok(first) = waiting.recv() {
        let all: Vec<_> = [first].into_iter().chain(waiting.try_iter()).collect();
        let whats: Vec<_> = all.iter().map(|one| (one.ino, one.durable)).collect();
        for (one, result) in all.into_iter().zip(overlay.sync_together(&whats)) {
            empty(one.reply, result);
        }
    }
}
