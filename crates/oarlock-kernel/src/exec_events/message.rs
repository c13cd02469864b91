//! The connector's messages (`linux/netlink.h`, `linux/connector.h`, `linux/cn_proc.h`): three headers, then the event. All
//! numbers are in the host's own byte order.
//!
//! ```text
//!  0  length, type, flags, sequence, port        nlmsghdr
//! 16  idx 1, val 1, sequence, ack, length, flags  cn_msg
//! 36  what, cpu, timestamp                        proc_event
//! 52  process_pid, process_tgid                   of an execution; of an answer: its error number
//! ```

use std::time::Duration;

/// The multicast group: bit `CN_IDX_PROC - 1`.
pub(super) const GROUP: u32 = 1;
/// `PROC_CN_MCAST_LISTEN` and `PROC_CN_MCAST_IGNORE`.
pub(super) const LISTEN: u32 = 1;
pub(super) const IGNORE: u32 = 2;
/// No event is longer: 76 bytes up to Linux 6.18.
pub(super) const LONGEST: usize = 512;

const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;
const PROC_EVENT_NONE: u32 = 0;
const PROC_EVENT_EXEC: u32 = 2;
const NLMSG_DONE: u16 = 3;

/// A request ends after its one number, where an event would begin its body.
const REQUEST: usize = 40;
const ACK: usize = 28;
const WHAT: usize = 36;
const WHEN: usize = 44;
const EVENT: usize = 52;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// A process executed a program, at this time since the boot.
    Exec { pid: u32, at: Duration },
    /// What the kernel says to a request, to all who listen.
    Answer { to: u32, errno: u32 },
}

impl Message {
    /// Reads one message; `None` for what is none, or tells of something else.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if number(bytes, 0)? as usize > bytes.len()
            || number(bytes, 16)? != CN_IDX_PROC
            || number(bytes, 20)? != CN_VAL_PROC
        {
            return None;
        }
        match number(bytes, WHAT)? {
            // The thread that executes becomes the process's only one.
            PROC_EVENT_EXEC => {
                let at = bytes.get(WHEN..WHEN + 8)?.try_into().ok().map(u64::from_ne_bytes)?;
                Some(Self::Exec { pid: number(bytes, EVENT + 4)?, at: Duration::from_nanos(at) })
            }
            // The kernel counts one up.
            PROC_EVENT_NONE => {
                Some(Self::Answer { to: number(bytes, ACK)?.wrapping_sub(1), errno: number(bytes, EVENT)? })
            }
            _ => None,
        }
    }
}

/// The request to listen or to ignore, with a number that the answer names.
pub(super) fn request(what: u32, ours: u32) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
    let halves = |halves: &[u16]| halves.iter().flat_map(|half| half.to_ne_bytes()).collect::<Vec<_>>();
    [
        words(&[REQUEST as u32]),
        halves(&[NLMSG_DONE, 0]),
        words(&[0, 0]),
        words(&[CN_IDX_PROC, CN_VAL_PROC, 0, ours]),
        halves(&[size_of_val(&what) as u16, 0]),
        words(&[what]),
    ]
    .concat()
}

/// A classic BPF program (`linux/filter.h`): executions and answers pass, all else is dropped.
pub(super) fn filter() -> [libc::sock_filter; 5] {
    // The machine of the filter loads in network byte order what the kernel wrote in the host's.
    let loaded = |number: u32| u32::from_be_bytes(number.to_ne_bytes());
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, WHAT as u32),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, loaded(PROC_EVENT_EXEC)),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, loaded(PROC_EVENT_NONE)),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a little-endian kernel sent it, but for the thread's id, which is another than the process's here.
    const EXEC: &str = "4c00000003000000b4b40000000000000100000001000000b4b40000000000002800000002000000010000008611f861c10b0000\
                        ad6b0000ae6b000000000000000000000000000000000000";
    const ANSWER: &str = "4c00000003000000e9bf0000000000000100000001000000e9bf00002a0000002800000000000000000000002db3df61c10b0000\
                          010000000000000000000000000000000000000000000000";
    const EXIT: &str = "4c00000003000000b5b40000000000000100000001000000b5b4000000000000280000000000008001000000e72d0762c10b0000\
                        ae6b0000ae6b00000000000011000000856b0000856b0000";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().collect();
        digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn an_execution_names_the_process_and_an_answer_whom_it_answers() {
        assert_eq!(
            Message::parse(&bytes(EXEC)),
            Some(Message::Exec { pid: 0x6bae, at: Duration::from_nanos(0x0bc1_61f8_1186) })
        );
        assert_eq!(Message::parse(&bytes(ANSWER)), Some(Message::Answer { to: 41, errno: 1 }));
        assert_eq!(Message::parse(&bytes(EXIT)), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn what_is_cut_off_or_of_another_connector_is_no_message() {
        let whole = bytes(EXEC);
        for length in 0..whole.len() {
            assert_eq!(Message::parse(&whole[..length]), None, "{length} bytes");
        }
        for at in [16, 20, 36] {
            let mut other = whole.clone();
            other[at] ^= 0x40;
            assert_eq!(Message::parse(&other), None, "byte {at}");
        }
    }

    #[test]
    fn a_request_has_the_length_that_it_states_and_its_number_where_the_answer_looks() {
        let request = request(IGNORE, 41);
        assert_eq!(request.len(), REQUEST);
        assert_eq!((number(&request, 0), number(&request, ACK)), (Some(40), Some(41)));
        assert_eq!(number(&request, WHAT), Some(IGNORE));
    }
}
