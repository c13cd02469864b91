//! The control file: what happens to the GPUs while a program runs. One order a line, heeded once and in order as the file
//! grows:
//!
//! - `xid GPU CODE`: the GPU raises this XID, for whoever waits for its events;
//! - `lost GPU`: every call on it says that it is lost; `back GPU` undoes that;
//! - `process GPU PID`: this process computes on the GPU; `ended GPU PID`: it does no longer;
//! - `hiccup N`: the next N calls fail with an unknown error.
//!
//! A file that does not go on from what was read is heeded from its beginning. A line that is no order is complained of.

/// One line of the control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The GPU raises an XID.
    Xid {
        /// The GPU's number.
        gpu: usize,
        /// The XID.
        code: u64,
    },
    /// The GPU falls off the bus.
    Lost(usize),
    /// The GPU is there again.
    Back(usize),
    /// A process begins to compute on the GPU.
    Process {
        /// The GPU's number.
        gpu: usize,
        /// As the host numbers it.
        pid: u32,
    },
    /// A process computes there no longer.
    Ended {
        /// The GPU's number.
        gpu: usize,
        /// As the host numbers it.
        pid: u32,
    },
    /// So many calls fail.
    Hiccup(u32),
}

/// How far the control file was read.
#[derive(Debug, Default)]
pub(crate) struct Control {
    heeded: String,
}

impl Control {
    /// The orders that are new in `text`, and the lines that are none.
    pub(crate) fn news<'a>(&mut self, text: &'a str) -> (Vec<Order>, Vec<&'a str>) {
        let known = if text.starts_with(&self.heeded) { self.heeded.len() } else { 0 };
        let mut heeded = known;
        let (mut orders, mut complaints) = (Vec::new(), Vec::new());
        for line in text[known..].split_inclusive('\n') {
            let complete = line.ends_with('\n');
            let words: Vec<&str> = line.split_whitespace().collect();
            match (order(&words), complete) {
                (Some(order), _) => orders.push(order),
                // Its writer may not be done.
                (None, false) => break,
                (None, true) if words.is_empty() => {}
                (None, true) => complaints.push(line.trim()),
            }
            heeded += line.len();
        }
        text[..heeded].clone_into(&mut self.heeded);
        (orders, complaints)
    }
}

fn order(words: &[&str]) -> Option<Order> {
    Some(match words {
        ["xid", gpu, code] => Order::Xid { gpu: gpu.parse().ok()?, code: code.parse().ok()? },
        ["lost", gpu] => Order::Lost(gpu.parse().ok()?),
        ["back", gpu] => Order::Back(gpu.parse().ok()?),
        ["process", gpu, pid] => Order::Process { gpu: gpu.parse().ok()?, pid: pid.parse().ok()? },
        ["ended", gpu, pid] => Order::Ended { gpu: gpu.parse().ok()?, pid: pid.parse().ok()? },
        ["hiccup", calls] => Order::Hiccup(calls.parse().ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_heeded_once_and_in_order_as_the_file_grows() {
        let mut control = Control::default();
        let xid = Order::Xid { gpu: 3, code: 79 };
        assert_eq!(control.news("xid 3 79\nlost 3\n").0, [xid, Order::Lost(3)]);
        assert_eq!(control.news("xid 3 79\nlost 3\n").0, []);
        assert_eq!(control.news("xid 3 79\nlost 3\nxid 3 79\nhiccup 2\n").0, [xid, Order::Hiccup(2)]);
    }

    #[test]
    fn a_line_without_its_end_is_heeded_when_it_is_an_order_and_not_again_when_it_ends() {
        let mut control = Control::default();
        assert_eq!(control.news("lost 1\nxid 3"), (vec![Order::Lost(1)], vec![]));
        assert_eq!(control.news("lost 1\nxid 3 ").0, []);
        assert_eq!(control.news("lost 1\nxid 3 48").0, [Order::Xid { gpu: 3, code: 48 }]);
        assert_eq!(control.news("lost 1\nxid 3 48\n\nback 1\n").0, [Order::Back(1)]);
    }

    #[test]
    fn another_file_of_the_same_length_is_heeded_from_its_beginning() {
        let mut control = Control::default();
        control.news("lost 3\n");
        assert_eq!(control.news("back 3\n").0, [Order::Back(3)]);
        assert_eq!(control.news("").0, []);
        assert_eq!(control.news("back 3\n").0, [Order::Back(3)]);
    }

    #[test]
    fn lines_that_are_no_order_are_complained_of_once_and_do_not_stop_the_next() {
        let mut control = Control::default();
        let text = "lots 3\nxid 3\nxid x 79\nlost -1\n\n  back  7 \r\n";
        assert_eq!(control.news(text), (vec![Order::Back(7)], vec!["lots 3", "xid 3", "xid x 79", "lost -1"]));
        assert_eq!(control.news(text), (vec![], vec![]));
    }
}
