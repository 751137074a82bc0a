//! What a request costs on the extension's side: allocations, counted behind callbacks that allocate nothing.
//! What that takes in time, `cargo bench -p extension-host --bench request` tells.
#![expect(
    unsafe_code,
    reason = "an allocator that counts, and the least host that there can be"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::c_void;
use std::mem::transmute;
use std::ptr;

use extension_api::abi::*;
use extension_api::export;
use extension_api::prelude::*;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u32> = const { Cell::new(0) };
    static LIVE: Cell<i32> = const { Cell::new(0) };
    static FETCH: Cell<Option<ext_completion>> = const { Cell::new(None) };
    static WATCH: Cell<Option<ext_completion>> = const { Cell::new(None) };
    static STATUS: Cell<u32> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        LIVE.set(LIVE.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - 1);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// ---- The endpoint ----

struct Plain {
    api: Base,
}

impl Endpoint for Plain {
    fn new(ctx: Context) -> Result<Self> {
        Ok(Self {
            api: ctx.base("https://api.example")?,
        })
    }

    fn routes(router: &mut Router<Self>) {
        router.get("/hello", async |_: &Self, _| Ok(Response::text("hello")));
        router.get("/header", async |_: &Self, _| {
            Ok(Response::text("hello")
                .header("x-a", "1")
                .header("x-b", "2"))
        });
        router.get("/proxy", async |plain: &Self, req: Request| {
            if req.accountability().user().is_some() {
                return Err(Error::forbidden("Not you."));
            }
            Ok(Response::relay(
                req.forward(&plain.api)
                    .header("authorization", "Basic x")
                    .send()
                    .await?,
            ))
        });
    }
}

const HELLO: usize = 0;
const HEADER: usize = 1;
const PROXY: usize = 2;

// ---- The least host ----

thread_local! {
    static ROUTES: Cell<[*mut c_void; 3]> = const { Cell::new([ptr::null_mut(); 3]) };
    static ROUTE_COUNT: Cell<usize> = const { Cell::new(0) };
}

unsafe extern "C" fn missing() {
    unreachable!("not called in these tests");
}

unsafe extern "C" fn endpoint(
    _: *mut ext_context,
    _: ext_slice,
    _: *mut ext_endpoint,
) -> ext_status {
    EXT_OK
}

unsafe extern "C" fn base(_: *mut ext_context, _: ext_slice, _: *mut ext_base) -> ext_status {
    EXT_OK
}

unsafe extern "C" fn route(
    _: *mut ext_context,
    _: ext_endpoint,
    _: ext_slice,
    _: ext_slice,
    _: u32,
    route: *mut c_void,
) -> ext_status {
    let mut routes = ROUTES.get();
    routes[ROUTE_COUNT.get()] = route;
    ROUTES.set(routes);
    ROUTE_COUNT.set(ROUTE_COUNT.get() + 1);
    EXT_OK
}

struct Head(ext_request_head);

// SAFETY: it points to constants alone.
unsafe impl Sync for Head {}

const ABSENT: ext_slice = ext_slice {
    ptr: ptr::null(),
    len: 0,
};
const NO_BODY: ext_buffer = ext_buffer {
    ptr: ptr::null(),
    len: 0,
    owner: ptr::null_mut(),
    release: None,
};

const fn text(text: &'static str) -> ext_slice {
    ext_slice {
        ptr: text.as_ptr(),
        len: text.len(),
    }
}

static HEAD: Head = Head(ext_request_head {
    struct_size: size_of::<ext_request_head>() as u32,
    http_version: 11,
    method: text("GET"),
    url: text("/a?b"),
    path: text("/a"),
    query: text("b"),
    params: ptr::null(),
    param_count: 0,
    peer: text("127.0.0.1:1"),
    id: text("1"),
    deadline_ms: 0,
    body_length: 0,
    body: NO_BODY,
    accountability: ext_accountability {
        user: ABSENT,
        role: ABSENT,
        roles: ptr::null(),
        role_count: 0,
        ip: ABSENT,
        user_agent: ABSENT,
        origin: ABSENT,
        session: ABSENT,
        admin: 0,
        app: 0,
        reserved: [0; 6],
    },
});

unsafe extern "C" fn head(_: ext_request) -> *const ext_request_head {
    &HEAD.0
}

unsafe extern "C" fn respond(_: ext_request, response: *const ext_response) -> ext_status {
    // SAFETY: lent for the call; every body of these tests is constant.
    let response = unsafe { &*response };
    assert!(response.body.release.is_none());
    STATUS.set(response.status);
    EXT_OK
}

unsafe extern "C" fn watch(_: ext_request, completion: ext_completion) -> ext_status {
    WATCH.set(Some(completion));
    EXT_OK
}

unsafe extern "C" fn fetch(
    _: *mut ext_context,
    _: *const ext_fetch,
    completion: ext_completion,
    _: *mut ext_op,
) -> ext_status {
    FETCH.set(Some(completion));
    EXT_OK
}

unsafe extern "C" fn fetched_head(_: ext_fetched, head: *mut ext_fetched_head) -> ext_status {
    // SAFETY: an out-pointer of the extension's.
    unsafe { (*head).status = 201 };
    EXT_OK
}

unsafe extern "C" fn relay(
    _: ext_request,
    _: ext_fetched,
    edits: *const ext_response,
) -> ext_status {
    assert!(edits.is_null());
    STATUS.set(201);
    EXT_OK
}

fn callbacks() -> &'static ext_callbacks {
    macro_rules! missing {
        () => {{
            #[expect(
                clippy::missing_transmute_annotations,
                reason = "the type is that of the field"
            )]
            // SAFETY: a function's address, never called.
            unsafe {
                transmute(missing as unsafe extern "C" fn())
            }
        }};
    }
    Box::leak(Box::new(ext_callbacks {
        struct_size: size_of::<ext_callbacks>() as u32,
        abi_minor: 0,
        get_interface: missing!(),
        endpoint,
        route,
        refuse: missing!(),
        env: missing!(),
        log_enabled: missing!(),
        log: missing!(),
        base,
        head,
        header: missing!(),
        headers: missing!(),
        read: missing!(),
        respond,
        fail: missing!(),
        stream: missing!(),
        write: missing!(),
        end: missing!(),
        relay,
        drop: missing!(),
        watch,
        sleep: missing!(),
        post: missing!(),
        cancel: missing!(),
        fetch,
        fetch_write: missing!(),
        fetch_end: missing!(),
        fetched_head,
        fetched_header: missing!(),
        fetched_headers: missing!(),
        fetched_read: missing!(),
        fetched_drop: missing!(),
    }))
}

struct Mounted {
    entry: ext_entry,
    instance: *mut c_void,
}

fn mounted() -> Mounted {
    let entry = export::entry::<(Plain, ())>(false);
    let mut instance = ptr::null_mut();
    // SAFETY: the table is leaked; nothing follows the context.
    let status = unsafe { entry.create.unwrap()(callbacks(), ptr::dangling_mut(), &mut instance) };
    assert_eq!(status, EXT_OK);
    Mounted { entry, instance }
}

impl Mounted {
    /// Serves one request, and calls the completions that it waits for.
    fn serve(&self, route: usize) -> u32 {
        STATUS.set(0);
        // SAFETY: instance and route are the extension's own.
        unsafe {
            self.entry.handle.unwrap()(
                self.instance,
                ROUTES.get()[route],
                ext_request {
                    slot: 1,
                    generation: 1,
                },
            )
        };
        if let Some(completion) = FETCH.take() {
            complete(
                completion,
                ext_fetched {
                    slot: 1,
                    generation: 1,
                },
            );
        }
        if let Some(completion) = WATCH.take() {
            complete(completion, ext_fetched::default());
        }
        STATUS.get()
    }
}

fn complete(completion: ext_completion, fetched: ext_fetched) {
    let struct_size = size_of::<ext_result>() as u32;
    let result = ext_result {
        struct_size,
        status: EXT_OK,
        data: NO_BODY,
        fetched,
        message: ABSENT,
    };
    // SAFETY: registered by the extension, and taken out of the cell: called once.
    unsafe { completion.function.unwrap()(completion.user, &result) }
}

fn allocations_of(mounted: &Mounted, route: usize) -> u32 {
    mounted.serve(route);
    let (allocations, live) = (ALLOCATIONS.get(), LIVE.get());
    assert!(mounted.serve(route) >= 200);
    assert_eq!(
        LIVE.get(),
        live,
        "everything is freed when the request is over"
    );
    ALLOCATIONS.get() - allocations
}

#[test]
fn a_request_costs_few_allocations() {
    let mounted = mounted();
    // The task.
    assert_eq!(allocations_of(&mounted, HELLO), 1);
    // The task, and the headers, which grow once.
    assert!(allocations_of(&mounted, HEADER) <= 3);
    // The task, the call's headers, and the operation.
    assert_eq!(allocations_of(&mounted, PROXY), 3);
}
