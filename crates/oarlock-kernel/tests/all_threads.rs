//! Alone in its file, as it binds the whole test process.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use oarlock_core::CpuSet;
use oarlock_kernel::affinity::{of_thread, set_process};
use oarlock_kernel::{Live, Proc};

#[test]
fn every_thread_of_a_process_is_set_also_those_that_start_meanwhile() {
    let all = of_thread(0).unwrap().here().unwrap();
    let last = CpuSet::of(all.iter().last().unwrap());
    // Setting these takes a while, and the thread that starts others comes after them.
    for _ in 0..400 {
        thread::spawn(thread::park);
    }
    let (stop, stopped) = mpsc::channel::<()>();
    let (started, starting) = mpsc::channel();
    let starter = thread::spawn(move || {
        let mut count = 0;
        while stopped.recv_timeout(Duration::from_micros(20)) == Err(RecvTimeoutError::Timeout) {
            if count < 2000 {
                thread::spawn(thread::park);
                count += 1;
            }
            started.send(()).unwrap();
        }
    });
    starting.recv().unwrap();
    let process = Proc::open("/proc".as_ref()).unwrap().process(std::process::id()).unwrap().unwrap();
    let Live::Here(set) = set_process(&process, &last).unwrap() else { panic!("this process vanished") };
    assert!(set > 400, "{set} threads were set");
    drop(stop);
    starter.join().unwrap();
    for tid in process.threads().unwrap().here().unwrap() {
        let affinity = of_thread(tid).unwrap();
        assert!(affinity == Live::Here(last.clone()) || affinity == Live::Vanished, "{tid}: {affinity:?}");
    }
}
