//! The table of callbacks.

mod answers;
mod calls;
mod extension;
mod ffi_in;
mod requests;

use crate::abi::*;
use crate::bridge::struct_size;

/// The table that `create` is given.
pub(super) static CALLBACKS: ext_callbacks = ext_callbacks {
    struct_size: struct_size::<ext_callbacks>(),
    abi_minor: EXT_ABI_MINOR,
    get_interface: extension::get_interface,
    endpoint: extension::endpoint,
    route: extension::route,
    refuse: extension::refuse,
    env: extension::env,
    log_enabled: extension::log_enabled,
    log: extension::log,
    base: extension::base,
    head: requests::head,
    header: requests::header,
    headers: requests::headers,
    read: requests::read,
    respond: answers::respond,
    fail: answers::fail,
    stream: answers::stream,
    write: answers::write,
    end: answers::end,
    relay: answers::relay,
    drop: answers::give_up,
    watch: requests::watch,
    sleep: calls::sleep,
    post: calls::post,
    cancel: calls::cancel,
    fetch: calls::fetch,
    fetch_write: calls::fetch_write,
    fetch_end: calls::fetch_end,
    fetched_head: calls::fetched_head,
    fetched_header: calls::fetched_header,
    fetched_headers: calls::fetched_headers,
    fetched_read: calls::fetched_read,
    fetched_drop: calls::fetched_drop,
};
