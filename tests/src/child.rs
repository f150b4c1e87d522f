//! Servers that end with the test, however that ends.

use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{io, thread};

use crate::machine;

/// A command, and where what came of it goes.
type Order = (Command, Sender<io::Result<Child>>);

/// The command to run `program` by, so that it is killed when the thread that starts it ends: [`spawn`] starts it.
/// Program and `setpriv` must be there.
pub fn bound(program: &str) -> Command {
    let path = |name| machine::program(name).expect("it was there before");
    let mut command = Command::new(path("setpriv"));
    command.args(["--pdeathsig", "KILL"]).arg(path(program));
    command
}

/// Starts a command by a thread that lives as long as this process: what is [`bound`] ends neither before nor after.
///
/// # Errors
/// What the system says.
pub fn spawn(command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (send, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, result) in orders {
                // Who ordered it may be gone.
                let _ = result.send(command.spawn());
            }
        });
        Mutex::new(send)
    });
    let (result, started) = mpsc::channel();
    let sent = starter
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, result));
    sent.expect("the thread lives as long as the process");
    started.recv().expect("each order is answered")
}
