//! The one place where unsafe code is right: two questions that `ort` has no safe wrapper for.
#![expect(
    unsafe_code,
    reason = "asking a library for its version before `ort` loads it, and asking a session where its nodes run"
)]

use ort::AsPointer;
use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char},
    path::Path,
    ptr,
};

type GetApiBase = unsafe extern "C" fn() -> *const ort::sys::OrtApiBase;

/// The version of the ONNX Runtime in a library, e.g. `1.31.1`, or why there is none.
///
/// `ort` can't be asked: after one failure to load, its next call works on uninitialised memory.
pub(crate) fn library_version(path: &Path) -> Result<String, String> {
    // SAFETY: loading runs the library's initialisers. The path comes from the user, the installation or the system's
    // search order, and is about to be loaded as ONNX Runtime anyway: running it is what was asked for.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| error.to_string())?;
    // SAFETY: `OrtGetApiBase` has had this signature in every ONNX Runtime; it takes nothing and returns a static table.
    let symbol = unsafe { library.get::<GetApiBase>(b"OrtGetApiBase\0") };
    let get_api_base = *symbol.map_err(|_| "it doesn't export `OrtGetApiBase`".to_owned())?;
    // A library with threads and thread-locals isn't safely unloaded: it stays, and `ort` gets the same one.
    std::mem::forget(library);
    // SAFETY: the call has no preconditions, and the library stays loaded.
    let base = unsafe { get_api_base().as_ref() }.ok_or("`OrtGetApiBase` returned nothing")?;
    // SAFETY: the function lies in the static table and returns a static, NUL-terminated string.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) };
    Ok(version.to_string_lossy().into_owned())
}

/// The number of graph nodes on each execution provider, by the provider's name. The session must have been built with
/// `session.record_ep_graph_assignment_info=1`.
pub(crate) fn placement(session: &ort::session::Session) -> ort::Result<BTreeMap<String, usize>> {
    let api = ort::api();
    let (mut subgraphs, mut count) = (ptr::null(), 0);
    // SAFETY: the session is alive and both out-pointers are valid for writes.
    let status = unsafe {
        (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut subgraphs, &mut count)
    };
    // SAFETY: the status comes from this API and is consumed once.
    unsafe { ort::Error::result_from_status(status) }?;
    let mut placed = BTreeMap::new();
    for i in 0..count {
        // SAFETY: the call above returned an array of `count` pointers, which the session owns.
        let subgraph = unsafe { *subgraphs.add(i) };
        let mut name: *const c_char = ptr::null();
        // SAFETY: `subgraph` is valid while the session lives, and the out-pointer is valid.
        let status = unsafe { (api.EpAssignedSubgraph_GetEpName)(subgraph, &mut name) };
        // SAFETY: as above.
        unsafe { ort::Error::result_from_status(status) }?;
        let (mut nodes, mut node_count) = (ptr::null(), 0);
        // SAFETY: as above.
        let status =
            unsafe { (api.EpAssignedSubgraph_GetNodes)(subgraph, &mut nodes, &mut node_count) };
        // SAFETY: as above.
        unsafe { ort::Error::result_from_status(status) }?;
        // SAFETY: on success the name is a NUL-terminated string that the session owns.
        let name = unsafe { CStr::from_ptr(name) }
            .to_string_lossy()
            .into_owned();
        *placed.entry(name).or_insert(0) += node_count;
    }
    Ok(placed)
}
