//! The C functions. Each takes its arguments apart, asks [`Library`] and writes the answer where the caller wants it.

#![expect(unsafe_code, reason = "a C library is called with raw pointers, under names that the linker must keep")]

use std::ffi::{CStr, c_char, c_uint, c_ulong, c_ulonglong};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::{
    NVML_AFFINITY_SCOPE_NODE, NVML_AFFINITY_SCOPE_SOCKET, NVML_NVLINK_MAX_LINKS, nvmlAffinityScope_t, nvmlDevice_t,
    nvmlEnableState_t, nvmlEventData_t, nvmlEventSet_t, nvmlEventTypeXidCriticalError,
    nvmlGpuLevel_enum_NVML_TOPOLOGY_HOSTBRIDGE, nvmlGpuLevel_enum_NVML_TOPOLOGY_INTERNAL,
    nvmlGpuLevel_enum_NVML_TOPOLOGY_MULTIPLE, nvmlGpuLevel_enum_NVML_TOPOLOGY_NODE,
    nvmlGpuLevel_enum_NVML_TOPOLOGY_SINGLE, nvmlGpuLevel_enum_NVML_TOPOLOGY_SYSTEM, nvmlGpuTopologyLevel_t,
    nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_GPU,
    nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH, nvmlIntNvLinkDeviceType_t, nvmlPciInfo_t,
    nvmlProcessInfo_t, nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED, nvmlReturn_enum_NVML_ERROR_TIMEOUT as TIMEOUT,
    nvmlReturn_enum_NVML_ERROR_UNKNOWN as UNKNOWN, nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t,
};
use oarlock_core::link::Link;
use oarlock_core::pci::PciAddress;

use crate::hardware::{MIG_DEVICES, Scope, bus_id};
use crate::library::{Answer, EVENT_TYPES, Handle, Library};
use crate::ports::Port;

/// What `nvmlEventData_t` has for a GPU without MIG.
const NO_INSTANCE: c_uint = c_uint::MAX;
/// Device and vendor of an H100, and of its NVSwitch, as `pciDeviceId` has them.
const GPU_ID: c_uint = 0x2330_10de;
const SWITCH_ID: c_uint = 0x22a3_10de;
/// The PCI domain of the switches, where no GPU is.
const SWITCH_DOMAIN: u32 = 0x7fff;
/// How often the control file is looked at while somebody waits for events.
const LOOK: Duration = Duration::from_millis(10);

static LIBRARY: LazyLock<Mutex<Library>> = LazyLock::new(Mutex::default);

/// Answers one call that cannot hiccup, after heeding the control file. A panic ends here: the caller is C.
fn finish(ask: impl FnOnce(&mut Library) -> Answer<()>) -> nvmlReturn_t {
    let answer = catch_unwind(AssertUnwindSafe(|| {
        let text = crate::control_text();
        // The state is changed in whole steps: what a panic leaves behind can be used.
        let mut library = LIBRARY.lock().unwrap_or_else(PoisonError::into_inner);
        for line in library.heed(&text) {
            eprintln!("oarlock-nvml-stub: the control file's \"{line}\" is no order");
        }
        ask(&mut library)
    }));
    match answer {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(error)) => error,
        Err(_) => UNKNOWN,
    }
}

/// Answers one call.
fn answer(ask: impl FnOnce(&mut Library) -> Answer<()>) -> nvmlReturn_t {
    finish(|library| {
        library.hiccup()?;
        library.driver(crate::machine_is_there())?;
        ask(library)
    })
}

/// Writes a value for the caller.
///
/// # Safety
/// `place` is null or valid for writing.
unsafe fn put<T>(place: *mut T, value: T) -> Answer<()> {
    if place.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: the caller says so.
    unsafe { place.write(value) };
    Ok(())
}

/// Writes a text and its NUL for the caller.
///
/// # Safety
/// `place` is null or valid for writing `length` bytes.
unsafe fn put_text(place: *mut c_char, length: c_uint, text: &str) -> Answer<()> {
    if place.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if text.len() >= length as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: the text and its NUL fit, and the caller says that so many bytes are valid.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr().cast(), place, text.len());
        place.add(text.len()).write(0);
    }
    Ok(())
}

/// Writes a mask of `size` words for the caller. What does not fit is left out, as NVML does.
///
/// # Safety
/// `place` is null or valid for writing `size` words.
unsafe fn put_mask(place: *mut c_ulong, size: c_uint, ids: impl Iterator<Item = u32>) -> Answer<()> {
    if place.is_null() || size == 0 {
        return Err(INVALID_ARGUMENT);
    }
    let mut words: Vec<c_ulong> = vec![0; size as usize];
    for id in ids {
        if let Some(word) = words.get_mut((id / c_ulong::BITS) as usize) {
            *word |= 1 << (id % c_ulong::BITS);
        }
    }
    // SAFETY: as many words as the caller says are valid.
    unsafe { ptr::copy_nonoverlapping(words.as_ptr(), place, words.len()) };
    Ok(())
}

/// Reads a text of the caller.
///
/// # Safety
/// `text` is null or points to a NUL-terminated text.
unsafe fn take_text<'a>(text: *const c_char) -> Answer<&'a str> {
    if text.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: the caller says so.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| INVALID_ARGUMENT)
}

/// A handle for the caller: a number that is never followed.
fn handle<T>(number: usize) -> *mut T {
    ptr::without_provenance_mut(number)
}

fn scope(scope: nvmlAffinityScope_t) -> Answer<Scope> {
    match scope {
        NVML_AFFINITY_SCOPE_NODE => Ok(Scope::Node),
        NVML_AFFINITY_SCOPE_SOCKET => Ok(Scope::Socket),
        _ => Err(INVALID_ARGUMENT),
    }
}

fn pci_info(address: PciAddress, id: c_uint) -> nvmlPciInfo_t {
    let mut info = nvmlPciInfo_t {
        busIdLegacy: [0; 16],
        domain: address.domain,
        bus: address.bus.into(),
        device: address.device.into(),
        pciDeviceId: id,
        pciSubSystemId: 0,
        busId: [0; 32],
    };
    let text = bus_id(address);
    for (place, byte) in info.busId.iter_mut().zip(text.bytes()) {
        *place = byte as c_char;
    }
    // The old form has four domain digits.
    for (place, byte) in info.busIdLegacy.iter_mut().zip(text.bytes().skip(4)) {
        *place = byte as c_char;
    }
    info
}

/// The far end of a GPU's NVLink of this number.
fn port(library: &Library, device: nvmlDevice_t, link: c_uint) -> Answer<Option<Port>> {
    let (_, gpu) = library.gpu(device.addr())?;
    if link >= NVML_NVLINK_MAX_LINKS {
        return Err(INVALID_ARGUMENT);
    }
    if gpu.ports.is_empty() {
        return Err(NOT_SUPPORTED);
    }
    Ok(gpu.ports.get(link as usize).copied())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    answer(|library| library.init(crate::machine()))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    nvmlInit_v2()
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    finish(Library::shutdown)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    answer(|library| {
        library.hardware()?;
        // SAFETY: NVML's contract for this function.
        unsafe { put_text(version, length, "580.95.05") }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: NVML's contract for this function.
    answer(|library| unsafe { put(count, library.hardware()?.gpus.len() as c_uint) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    // SAFETY: NVML's contract for this function.
    answer(|library| unsafe { put(device, handle(library.by_index(index as usize)?.number())) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    // SAFETY: NVML's contract for this function.
    answer(|library| unsafe { put(device, handle(library.by_uuid(take_text(uuid)?)?.number())) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(
    bus_id: *const c_char,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    // SAFETY: NVML's contract for this function.
    answer(|library| unsafe { put(device, handle(library.by_bus_id(take_text(bus_id)?)?.number())) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) -> nvmlReturn_t {
    answer(|library| {
        let (gpu, mig) = library.parts(library.handle(device.addr())?)?;
        // SAFETY: NVML's contract for this function.
        unsafe { put_text(name, length, mig.map_or(&gpu.name, |mig| &mig.name)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) -> nvmlReturn_t {
    answer(|library| {
        let (gpu, mig) = library.parts(library.handle(device.addr())?)?;
        // SAFETY: NVML's contract for this function.
        unsafe { put_text(uuid, length, mig.map_or(&gpu.uuid, |mig| &mig.uuid)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint) -> nvmlReturn_t {
    answer(|library| {
        let (Handle::Gpu(number) | Handle::Mig(_, number)) = library.handle(device.addr())?;
        // SAFETY: NVML's contract for this function.
        unsafe { put(index, number as c_uint) }
    })
}

/// The number in the name of the device node: here the index, though a real driver's can differ.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minor: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: NVML's contract for this function.
    answer(|library| unsafe { put(minor, library.gpu(device.addr())?.0 as c_uint) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> nvmlReturn_t {
    // SAFETY: NVML's contract for this function.
    answer(|library| unsafe { put(pci, pci_info(library.gpu(device.addr())?.1.pci, GPU_ID)) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetNumaNodeId(device: nvmlDevice_t, node: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: NVML's contract for this function.
    answer(|library| unsafe { put(node, library.gpu(device.addr())?.1.memory_node.ok_or(NOT_SUPPORTED)?) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryAffinity(
    device: nvmlDevice_t,
    size: c_uint,
    nodes: *mut c_ulong,
    reach: nvmlAffinityScope_t,
) -> nvmlReturn_t {
    answer(|library| {
        let near = library.hardware()?.nodes(library.gpu(device.addr())?.0, scope(reach)?);
        // SAFETY: NVML's contract for this function.
        unsafe { put_mask(nodes, size, near.iter()) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCpuAffinityWithinScope(
    device: nvmlDevice_t,
    size: c_uint,
    cpus: *mut c_ulong,
    reach: nvmlAffinityScope_t,
) -> nvmlReturn_t {
    answer(|library| {
        let near = library.hardware()?.cpus(library.gpu(device.addr())?.0, scope(reach)?);
        // SAFETY: NVML's contract for this function.
        unsafe { put_mask(cpus, size, near.iter()) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCpuAffinity(device: nvmlDevice_t, size: c_uint, cpus: *mut c_ulong) -> nvmlReturn_t {
    // SAFETY: the same contract as that function's.
    unsafe { nvmlDeviceGetCpuAffinityWithinScope(device, size, cpus, NVML_AFFINITY_SCOPE_NODE) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTopologyCommonAncestor(
    one: nvmlDevice_t,
    other: nvmlDevice_t,
    level: *mut nvmlGpuTopologyLevel_t,
) -> nvmlReturn_t {
    answer(|library| {
        let (one, other) = (library.gpu(one.addr())?.0, library.gpu(other.addr())?.0);
        let found = match library.hardware()?.path(one, other) {
            _ if one == other => nvmlGpuLevel_enum_NVML_TOPOLOGY_INTERNAL,
            Link::Switch => nvmlGpuLevel_enum_NVML_TOPOLOGY_SINGLE,
            Link::Switches => nvmlGpuLevel_enum_NVML_TOPOLOGY_MULTIPLE,
            Link::HostBridge => nvmlGpuLevel_enum_NVML_TOPOLOGY_HOSTBRIDGE,
            Link::Node => nvmlGpuLevel_enum_NVML_TOPOLOGY_NODE,
            Link::System | Link::NvLink(_) | Link::Unknown => nvmlGpuLevel_enum_NVML_TOPOLOGY_SYSTEM,
        };
        // SAFETY: NVML's contract for this function.
        unsafe { put(level, found) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetNvLinkState(
    device: nvmlDevice_t,
    link: c_uint,
    active: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    // SAFETY: NVML's contract for this function.
    answer(|library| unsafe { put(active, port(library, device, link)?.is_some().into()) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(
    device: nvmlDevice_t,
    link: c_uint,
    pci: *mut nvmlPciInfo_t,
) -> nvmlReturn_t {
    answer(|library| {
        let remote = match port(library, device, link)?.ok_or(NOT_SUPPORTED)? {
            Port::Gpu(peer) => pci_info(library.hardware()?.gpus.get(peer).ok_or(UNKNOWN)?.pci, GPU_ID),
            Port::Switch(switch) => {
                let address = PciAddress { domain: SWITCH_DOMAIN, bus: switch as u8, device: 0, function: 0 };
                pci_info(address, SWITCH_ID)
            }
        };
        // SAFETY: NVML's contract for this function.
        unsafe { put(pci, remote) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetNvLinkRemoteDeviceType(
    device: nvmlDevice_t,
    link: c_uint,
    kind: *mut nvmlIntNvLinkDeviceType_t,
) -> nvmlReturn_t {
    answer(|library| {
        let found = match port(library, device, link)?.ok_or(NOT_SUPPORTED)? {
            Port::Gpu(_) => nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_GPU,
            Port::Switch(_) => nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH,
        };
        // SAFETY: NVML's contract for this function.
        unsafe { put(kind, found) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    answer(|library| {
        library.gpu(device.addr())?.1.mig.as_ref().ok_or(NOT_SUPPORTED)?;
        // SAFETY: NVML's contract for this function.
        unsafe {
            put(current, 1)?;
            put(pending, 1)
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint) -> nvmlReturn_t {
    answer(|library| {
        let most = if library.gpu(device.addr())?.1.mig.is_some() { MIG_DEVICES } else { 0 };
        // SAFETY: NVML's contract for this function.
        unsafe { put(count, most as c_uint) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    mig: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    // SAFETY: NVML's contract for this function.
    answer(|library| unsafe { put(mig, handle(library.mig(device.addr(), index as usize)?.number())) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(
    mig: nvmlDevice_t,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    answer(|library| match library.handle(mig.addr())? {
        // SAFETY: NVML's contract for this function.
        Handle::Mig(gpu, _) => unsafe { put(device, handle(Handle::Gpu(gpu).number())) },
        Handle::Gpu(_) => Err(INVALID_ARGUMENT),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, is_mig: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: NVML's contract for this function.
    answer(|library| unsafe { put(is_mig, matches!(library.handle(device.addr())?, Handle::Mig(..)).into()) })
}

/// Writes the number of processes also where there is no room for them, as NVML does.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    processes: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    answer(|library| {
        let pids = library.processes(device.addr())?;
        if count.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: NVML's contract for this function.
        let room = unsafe { count.replace(pids.len() as c_uint) };
        if pids.len() > room as usize {
            return Err(INSUFFICIENT_SIZE);
        }
        for (place, pid) in pids.into_iter().enumerate() {
            let info =
                nvmlProcessInfo_t { pid, usedGpuMemory: 0, gpuInstanceId: NO_INSTANCE, computeInstanceId: NO_INSTANCE };
            // SAFETY: NVML's contract for this function, and there is room for so many.
            unsafe { put(processes.wrapping_add(place), info)? };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, types: *mut c_ulonglong) -> nvmlReturn_t {
    answer(|library| {
        library.gpu(device.addr())?;
        // SAFETY: NVML's contract for this function.
        unsafe { put(types, EVENT_TYPES) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetCreate(set: *mut nvmlEventSet_t) -> nvmlReturn_t {
    // SAFETY: NVML's contract for this function.
    answer(|library| unsafe { put(set, handle(library.create_set()?)) })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceRegisterEvents(device: nvmlDevice_t, types: c_ulonglong, set: nvmlEventSet_t) -> nvmlReturn_t {
    answer(|library| library.register(device.addr(), types, set.addr()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    data: *mut nvmlEventData_t,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    let begun = Instant::now();
    let timeout = Duration::from_millis(timeout_ms.into());
    loop {
        let mut event = None;
        let asked = answer(|library| {
            event = library.next_event(set.addr())?;
            let Some((device, code)) = event else { return Ok(()) };
            let found = nvmlEventData_t {
                device: handle(device.number()),
                eventType: nvmlEventTypeXidCriticalError.into(),
                eventData: code,
                gpuInstanceId: NO_INSTANCE,
                computeInstanceId: NO_INSTANCE,
            };
            // SAFETY: NVML's contract for this function.
            unsafe { put(data, found) }
        });
        let left = timeout.saturating_sub(begun.elapsed());
        if asked != SUCCESS || event.is_some() {
            return asked;
        }
        if left.is_zero() {
            return TIMEOUT;
        }
        thread::sleep(left.min(LOOK));
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetFree(set: nvmlEventSet_t) -> nvmlReturn_t {
    finish(|library| library.free_set(set.addr()))
}

#[cfg(test)]
mod tests;
