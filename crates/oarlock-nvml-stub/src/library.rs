//! NVML as its callers see it: handles in, values or NVML's own error numbers out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nvml_wrapper_sys::bindings::{
    nvmlEventTypeXidCriticalError, nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED as DRIVER_NOT_LOADED,
    nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST as GPU_IS_LOST,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT, nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED as UNINITIALIZED, nvmlReturn_enum_NVML_ERROR_UNKNOWN as UNKNOWN,
    nvmlReturn_t,
};
use oarlock_core::pci::PciAddress;

use crate::control::{Control, Order};
use crate::hardware::{Gpu, Hardware, MIG_DEVICES, Mig};

/// A value, or the number of NVML's error.
pub(crate) type Answer<T> = Result<T, nvmlReturn_t>;

/// XIDs are the only events that ever happen here.
pub(crate) const EVENT_TYPES: u64 = nvmlEventTypeXidCriticalError as u64;

/// What a device handle stands for. The number of a handle is never 0, which is C's null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Handle {
    /// A GPU.
    Gpu(usize),
    /// A MIG device of a GPU, by its number.
    Mig(usize, usize),
}

/// The library's whole state.
#[derive(Debug, Default)]
pub(crate) struct Library {
    users: usize,
    /// The driver went away under its users. It is back for none of them, only for who comes after the last is gone.
    unloaded: bool,
    hardware: Option<Hardware>,
    control: Control,
    lost: BTreeSet<usize>,
    /// GPU and process id.
    processes: BTreeSet<(usize, u32)>,
    hiccups: u32,
    sets: BTreeMap<usize, EventSet>,
    last_set: usize,
}

#[derive(Debug, Default)]
struct EventSet {
    gpus: BTreeSet<usize>,
    pending: VecDeque<(usize, u64)>,
}

impl Handle {
    pub(crate) fn number(self) -> usize {
        match self {
            Self::Gpu(gpu) => (gpu + 1) << 4,
            Self::Mig(gpu, device) => ((gpu + 1) << 4) + device + 1,
        }
    }

    fn of(number: usize) -> Answer<Self> {
        let gpu = (number >> 4).checked_sub(1).ok_or(INVALID_ARGUMENT)?;
        Ok(match number & 0xf {
            0 => Self::Gpu(gpu),
            device => Self::Mig(gpu, device - 1),
        })
    }
}

impl Library {
    /// Does what is new in the control file; returns the lines that are no order.
    pub(crate) fn heed<'a>(&mut self, text: &'a str) -> Vec<&'a str> {
        let (orders, complaints) = self.control.news(text);
        for order in orders {
            match order {
                Order::Lost(gpu) => drop(self.lost.insert(gpu)),
                Order::Back(gpu) => drop(self.lost.remove(&gpu)),
                Order::Process { gpu, pid } => drop(self.processes.insert((gpu, pid))),
                Order::Ended { gpu, pid } => drop(self.processes.remove(&(gpu, pid))),
                Order::Hiccup(calls) => self.hiccups = self.hiccups.saturating_add(calls),
                // Nobody learns of an XID who did not register before it.
                Order::Xid { gpu, code } => {
                    for set in self.sets.values_mut().filter(|set| set.gpus.contains(&gpu)) {
                        set.pending.push_back((gpu, code));
                    }
                }
            }
        }
        complaints
    }

    /// Counts one call of those that may fail for no reason.
    pub(crate) fn hiccup(&mut self) -> Answer<()> {
        if self.hiccups == 0 {
            return Ok(());
        }
        self.hiccups -= 1;
        Err(UNKNOWN)
    }

    /// Notes whether the driver is there, and says so to all but those who start.
    pub(crate) fn driver(&mut self, there: bool) -> Answer<()> {
        self.unloaded |= self.users > 0 && !there;
        if self.unloaded { Err(DRIVER_NOT_LOADED) } else { Ok(()) }
    }

    /// One more user, who found this machine.
    pub(crate) fn init(&mut self, machine: Option<Hardware>) -> Answer<()> {
        if self.unloaded {
            return Err(DRIVER_NOT_LOADED);
        }
        self.hardware = Some(machine.ok_or(DRIVER_NOT_LOADED)?);
        self.users += 1;
        Ok(())
    }

    /// One user less; the last one takes all event sets along.
    pub(crate) fn shutdown(&mut self) -> Answer<()> {
        self.users = self.users.checked_sub(1).ok_or(UNINITIALIZED)?;
        if self.users == 0 {
            (self.hardware, self.sets, self.unloaded) = (None, BTreeMap::new(), false);
        }
        Ok(())
    }

    pub(crate) fn hardware(&self) -> Answer<&Hardware> {
        self.hardware.as_ref().ok_or(UNINITIALIZED)
    }

    pub(crate) fn by_index(&self, index: usize) -> Answer<Handle> {
        if index < self.hardware()?.gpus.len() { self.present(Handle::Gpu(index)) } else { Err(INVALID_ARGUMENT) }
    }

    pub(crate) fn by_uuid(&self, uuid: &str) -> Answer<Handle> {
        for (number, gpu) in self.hardware()?.gpus.iter().enumerate() {
            if gpu.uuid == uuid {
                return self.present(Handle::Gpu(number));
            }
            let is_it = |device: &Option<Mig>| device.as_ref().is_some_and(|device| device.uuid == uuid);
            if let Some(device) = gpu.mig.iter().flatten().position(is_it) {
                return self.present(Handle::Mig(number, device));
            }
        }
        Err(NOT_FOUND)
    }

    pub(crate) fn by_bus_id(&self, bus_id: &str) -> Answer<Handle> {
        let address: PciAddress = bus_id.parse().map_err(|_| INVALID_ARGUMENT)?;
        let gpu = self.hardware()?.gpus.iter().position(|gpu| gpu.pci == address).ok_or(NOT_FOUND)?;
        self.present(Handle::Gpu(gpu))
    }

    /// The handle with this number, of a device that is there.
    pub(crate) fn handle(&self, number: usize) -> Answer<Handle> {
        let handle = Handle::of(number)?;
        self.parts(handle)?;
        self.present(handle)
    }

    /// The GPU's number and the GPU, which a MIG device is not.
    pub(crate) fn gpu(&self, number: usize) -> Answer<(usize, &Gpu)> {
        match self.handle(number)? {
            Handle::Gpu(gpu) => Ok((gpu, self.parts(Handle::Gpu(gpu))?.0)),
            Handle::Mig(..) => Err(NOT_SUPPORTED),
        }
    }

    /// The GPU, and the MIG device where it is one.
    pub(crate) fn parts(&self, handle: Handle) -> Answer<(&Gpu, Option<&Mig>)> {
        let (Handle::Gpu(gpu) | Handle::Mig(gpu, _)) = handle;
        let gpu = self.hardware()?.gpus.get(gpu).ok_or(INVALID_ARGUMENT)?;
        match handle {
            Handle::Gpu(_) => Ok((gpu, None)),
            Handle::Mig(_, device) => {
                let device = gpu.mig.iter().flatten().nth(device).and_then(Option::as_ref);
                Ok((gpu, Some(device.ok_or(INVALID_ARGUMENT)?)))
            }
        }
    }

    /// The MIG device of this number on a GPU; the numbers have gaps.
    pub(crate) fn mig(&self, gpu: usize, device: usize) -> Answer<Handle> {
        let (gpu, found) = self.gpu(gpu)?;
        if found.mig.is_none() || device >= MIG_DEVICES {
            return Err(INVALID_ARGUMENT);
        }
        let handle = Handle::Mig(gpu, device);
        self.parts(handle).map_err(|_| NOT_FOUND)?;
        Ok(handle)
    }

    /// The processes that compute on a device, ascending; on a MIG device none ever does here.
    pub(crate) fn processes(&self, number: usize) -> Answer<Vec<u32>> {
        let device = self.handle(number)?;
        let on_it = |(gpu, _): &&(usize, u32)| device == Handle::Gpu(*gpu);
        Ok(self.processes.iter().filter(on_it).map(|(_, pid)| *pid).collect())
    }

    pub(crate) fn create_set(&mut self) -> Answer<usize> {
        self.hardware()?;
        self.last_set += 1;
        self.sets.insert(self.last_set, EventSet::default());
        Ok(self.last_set)
    }

    pub(crate) fn register(&mut self, gpu: usize, types: u64, set: usize) -> Answer<()> {
        let (gpu, _) = self.gpu(gpu)?;
        if types & !EVENT_TYPES != 0 {
            return Err(NOT_SUPPORTED);
        }
        self.sets.get_mut(&set).ok_or(INVALID_ARGUMENT)?.gpus.insert(gpu);
        Ok(())
    }

    pub(crate) fn next_event(&mut self, set: usize) -> Answer<Option<(Handle, u64)>> {
        self.hardware()?;
        let set = self.sets.get_mut(&set).ok_or(INVALID_ARGUMENT)?;
        Ok(set.pending.pop_front().map(|(gpu, code)| (Handle::Gpu(gpu), code)))
    }

    pub(crate) fn free_set(&mut self, set: usize) -> Answer<()> {
        self.sets.remove(&set).map(drop).ok_or(INVALID_ARGUMENT)
    }

    fn present(&self, handle: Handle) -> Answer<Handle> {
        let (Handle::Gpu(gpu) | Handle::Mig(gpu, _)) = handle;
        if self.lost.contains(&gpu) { Err(GPU_IS_LOST) } else { Ok(handle) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn library() -> Library {
        let file = br#"{"nodes": [{"id": 0, "cpulist": "0-3"}],
            "gpus": [{"uuid": "GPU-a"}, {"uuid": "GPU-b", "mig": [null, "1g.10gb"]}, {"uuid": "GPU-c"}]}"#;
        let mut library = Library::default();
        library.init(Some(Hardware::parse(file, Path::new("box.json")).unwrap())).unwrap();
        library
    }

    #[test]
    fn every_handle_has_a_number_of_its_own_that_is_not_null() {
        for handle in [Handle::Gpu(0), Handle::Gpu(15), Handle::Mig(0, 0), Handle::Mig(15, 6)] {
            assert_eq!(Handle::of(handle.number()), Ok(handle));
        }
        assert_eq!(Handle::of(0), Err(INVALID_ARGUMENT));
        let library = library();
        assert_eq!(library.handle(Handle::Gpu(3).number()), Err(INVALID_ARGUMENT));
        assert_eq!(library.handle(Handle::Mig(1, 0).number()), Err(INVALID_ARGUMENT));
        assert_eq!(library.mig(Handle::Gpu(1).number(), 0), Err(NOT_FOUND));
        assert_eq!(library.mig(Handle::Gpu(1).number(), 1), Ok(Handle::Mig(1, 1)));
    }

    #[test]
    fn a_lost_gpu_is_lost_to_every_call_with_its_mig_devices_until_it_is_back() {
        let mut library = library();
        let mig = library.parts(Handle::Mig(1, 1)).unwrap().1.unwrap().uuid.clone();
        library.heed("lost 1\n");
        let bus_id = crate::hardware::bus_id(library.hardware().unwrap().gpus[1].pci);
        for answer in [
            library.by_index(1),
            library.by_uuid("GPU-b"),
            library.by_uuid(&mig),
            library.by_bus_id(&bus_id),
            library.handle(Handle::Gpu(1).number()),
            library.handle(Handle::Mig(1, 1).number()),
        ] {
            assert_eq!(answer, Err(GPU_IS_LOST));
        }
        assert_eq!(library.by_uuid("GPU-c"), Ok(Handle::Gpu(2)));
        library.heed("lost 1\nback 1\n");
        assert_eq!(library.by_uuid(&mig), Ok(Handle::Mig(1, 1)));
    }

    #[test]
    fn an_xid_comes_once_to_those_who_registered_the_gpu_before_it() {
        let mut library = library();
        let (one, other) = (library.create_set().unwrap(), library.create_set().unwrap());
        library.register(Handle::Gpu(2).number(), EVENT_TYPES, one).unwrap();
        library.heed("xid 2 79\nxid 0 48\n");
        library.register(Handle::Gpu(0).number(), EVENT_TYPES, other).unwrap();
        library.heed("xid 2 79\nxid 0 48\nxid 0 31\n");
        assert_eq!(library.next_event(one), Ok(Some((Handle::Gpu(2), 79))));
        assert_eq!(library.next_event(one), Ok(None));
        assert_eq!(library.next_event(other), Ok(Some((Handle::Gpu(0), 31))));
        library.free_set(one).unwrap();
        assert_eq!(library.next_event(one), Err(INVALID_ARGUMENT));
        assert_eq!(library.register(Handle::Gpu(0).number(), 2, other), Err(NOT_SUPPORTED));
    }

    #[test]
    fn a_hiccup_is_so_many_calls_long() {
        let mut library = library();
        library.heed("hiccup 2\n");
        assert_eq!([(); 3].map(|()| library.hiccup()), [Err(UNKNOWN), Err(UNKNOWN), Ok(())]);
    }

    #[test]
    fn a_driver_that_went_away_is_back_only_for_new_users() {
        let mut library = library();
        assert_eq!(
            [true, false, true].map(|there| library.driver(there)),
            [Ok(()), Err(DRIVER_NOT_LOADED), Err(DRIVER_NOT_LOADED)]
        );
        library.shutdown().unwrap();
        assert_eq!([true, false].map(|there| library.driver(there)), [Ok(()), Ok(())], "nobody is there to notice");
    }

    #[test]
    fn without_a_machine_the_driver_is_not_loaded_and_after_the_last_user_nothing_is() {
        let mut library = library();
        assert_eq!(library.init(None), Err(DRIVER_NOT_LOADED));
        assert_eq!(library.by_index(0), Ok(Handle::Gpu(0)));
        library.shutdown().unwrap();
        assert_eq!(library.by_index(0), Err(UNINITIALIZED));
        assert_eq!(library.shutdown(), Err(UNINITIALIZED));
    }
}
