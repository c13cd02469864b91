//! Alone in its file, as it binds the whole test process.

use std::sync::mpsc;
use std::thread;

use oarlock_core::CpuSet;
use oarlock_kernel::affinity::{of_thread, set_process};
use oarlock_kernel::{Live, Proc};

#[test]
fn every_thread_of_a_process_is_set_also_those_that_start_meanwhile() {
    let all = of_thread(0).unwrap().here().unwrap();
    let last = CpuSet::of(all.iter().last().unwrap());
    let (stop, stopped) = mpsc::channel::<()>();
    let starter = thread::spawn(move || {
        let mut started = Vec::new();
        while stopped.recv_timeout(std::time::Duration::from_micros(50)) == Err(mpsc::RecvTimeoutError::Timeout) {
            if started.len() < 500 {
                started.push(thread::spawn(thread::park));
            }
        }
        started
    });
    let process = Proc::open("/proc".as_ref()).unwrap().process(std::process::id()).unwrap().unwrap();
    let Live::Here(set) = set_process(&process, &last).unwrap() else { panic!("this process vanished") };
    assert!(set >= 3, "{set} threads were set");
    drop(stop);
    let started = starter.join().unwrap();
    let threads = process.threads().unwrap().here().unwrap();
    assert!(threads.len() >= started.len());
    for tid in threads {
        let affinity = of_thread(tid).unwrap();
        assert!(
            matches!(&affinity, Live::Here(cpus) if *cpus == last) || affinity == Live::Vanished,
            "{tid}: {affinity:?}"
        );
    }
}
