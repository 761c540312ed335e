//! Reads, which may wait for a disk.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use fuser::ReplyData;

use crate::{Ino, Store};

use super::attr::errno;

struct Read {
    ino: Ino,
    offset: u64,
    len: usize,
    reply: ReplyData,
}

/// Reads on the threads that take the kernel's requests as long as one is left for the rest, then on threads of its own:
/// most reads are from memory, and another thread would cost more than the read.
#[derive(Debug)]
pub(super) struct Reads<S> {
    store: Arc<S>,
    /// How many more may read where they are.
    here: AtomicUsize,
    others: Sender<Read>,
}

impl<S: Store> Reads<S> {
    /// `here`: how many threads may read at a time where they are; `readers`: how many there are besides, 1 at least.
    pub(super) fn new(store: Arc<S>, here: usize, readers: usize) -> io::Result<Self> {
        let (others, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..readers.max(1) {
            let (store, queue) = (store.clone(), queue.clone());
            // They end when the sender is dropped.
            thread::Builder::new().name(format!("trine-read-{number}")).spawn(move || serve(&*store, &queue))?;
        }
        Ok(Self { store, here: AtomicUsize::new(here), others })
    }

    pub(super) fn read(&self, ino: Ino, offset: u64, len: usize, reply: ReplyData) {
        let read = Read { ino, offset, len, reply };
        if self.here.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok() {
            answer(&*self.store, read);
            self.here.fetch_add(1, Ordering::AcqRel);
        } else if let Err(read) = self.others.send(read) {
            read.0.reply.error(fuser::Errno::EIO);
        }
    }
}

fn serve<S: Store>(store: &S, queue: &Mutex<Receiver<Read>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(read) => answer(store, read),
            Err(_) => return,
        }
    }
}

fn answer<S: Store>(store: &S, read: Read) {
    match store.read(read.ino, read.offset, read.len) {
        Ok(data) => read.reply.data(&data),
        Err(error) => read.reply.error(errno(error)),
    }
}
