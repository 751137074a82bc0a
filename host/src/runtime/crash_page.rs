//! UNSAFE: who was inside which extension, in memory that outlives the process: the supervisor reads it when the server has ended.
//!
//! A few pages that both processes map. Threads that call extensions write there as they enter and leave, with plain stores: the
//! system keeps what was written when the process dies at any instruction. A server without a supervisor has the same memory, and
//! nobody who reads it.
#![expect(
    unsafe_code,
    reason = "memory that is shared with another process is mapped by hand"
)]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::atomic::{
    AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, compiler_fence,
};

use rustix::mm::{MapFlags, ProtFlags};

use crate::platform::handover::Place;
use crate::platform::{log, process};

/// Says how the page is laid out: another host's supervisor may read it, after an upgrade. To be counted up with each change but those
/// that it need not know of.
const LAYOUT: u64 = 1;
/// So many threads can be inside extensions and be told apart; all beyond share the last mark.
const THREADS_MAX: usize = 512;
/// So many builds are known at once; the youngest take the places of the oldest.
const BUILDS_MAX: usize = 4_096;
/// For the names of extensions and routes, each once.
const TEXT_BYTES: usize = 256 << 10;
/// The length of a text, in a byte; more is of no use in a line of the log.
const TEXT_LENGTH_MAX: usize = 250;

/// The page of this process; null before it was made.
static PAGE: AtomicPtr<CrashPage> = AtomicPtr::new(ptr::null_mut());

/// See the module's text. All zero is one to which nothing has been written.
#[repr(C)]
pub struct CrashPage {
    layout: AtomicU64,
    next_build: AtomicU64,
    next_text: AtomicU32,
    /// Counts up while the process gets time to run.
    heartbeat: AtomicU64,
    /// What ended the process, where it could still tell.
    pub fault: Fault,
    threads: [ThreadMark; THREADS_MAX],
    builds: [BuildMark; BUILDS_MAX],
    text: [AtomicU8; TEXT_BYTES],
}

/// Where one thread is.
#[repr(C, align(64))]
pub struct ThreadMark {
    /// The number of the extension's build; 0 outside.
    inside: AtomicU64,
    /// Counts the times that an extension was entered.
    entry_count: AtomicU64,
    /// Counts the times that a worker's loop went round although it had nothing to do, because it was asked to.
    sign_count: AtomicU64,
    /// The id of the request that it works for.
    request: [AtomicU64; 2],
    /// The route of that request, a text of the page.
    route: AtomicU32,
    is_taken: AtomicU32,
    /// The number of the build that it has entered last.
    last: AtomicU64,
}

/// What is known of a build.
#[repr(C)]
struct BuildMark {
    number: AtomicU64,
    /// Which files it was made of, for comparison.
    fingerprint: AtomicU64,
    /// The build of that extension, counted from 1.
    generation: AtomicU64,
    /// The inode of the private copy of its library, by which an address in its code is known.
    inode: AtomicU64,
    name: AtomicU32,
    /// The ids under which it is served, with commas between them.
    ids: AtomicU32,
}

/// What ended the process, written by the thread that it happened to.
#[repr(C)]
pub struct Fault {
    /// 0: nothing; 1: it is being written; 2: it is whole.
    state: AtomicU32,
    /// The signal; 0: somebody called `exit`.
    signal: AtomicI32,
    /// 1: the thread's stack has overflowed.
    overflows: AtomicU32,
    route: AtomicU32,
    build: AtomicU64,
    request: [AtomicU64; 2],
}

/// What has ended a process, as far as it could still tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// The signal; 0: somebody called `exit`.
    pub signal: i32,
    /// The stack of the thread has overflowed.
    pub overflows: bool,
    /// In whose code it was.
    pub place: Option<Place>,
}

/// For which request an extension is called.
#[derive(Clone, Copy, Default)]
pub struct CallMark {
    /// The request's id; zeros: none.
    pub request: [u8; 16],
    /// See [`CrashPage::add_text`].
    pub route: u32,
}

impl CallMark {
    /// The request's id; `None`: it is called for none.
    pub fn request_id(&self) -> Option<&str> {
        let is_id = self.request.iter().all(u8::is_ascii_hexdigit);
        str::from_utf8(&self.request).ok().filter(|_| is_id)
    }
}

/// The page of this process; made at the first call, where [`adopt`] has not given another.
pub fn page() -> &'static CrashPage {
    let page = PAGE.load(Ordering::Acquire);
    // SAFETY: it is null, or a mapping that `adopt` leaked.
    if let Some(page) = unsafe { page.as_ref() } {
        return page;
    }
    let made = anonymous().and_then(|file| Mapping::of(&file));
    match made {
        Ok(made) => keep(made),
        // No memory for it: one that is not shared does as well for everybody but the supervisor.
        Err(_) => keep_instead(),
    }
}

/// The page of this process, where it has been made: for the handler of a signal.
pub fn page_if_made() -> Option<&'static CrashPage> {
    // SAFETY: as above.
    unsafe { PAGE.load(Ordering::Acquire).as_ref() }
}

/// Makes `file`, which the supervisor has made, the page of this process. To be called before anything is loaded.
///
/// # Errors
/// Where the file cannot be mapped, or is that of a host whose page is smaller; a page of the process's own serves then.
pub fn adopt(file: &File) -> io::Result<()> {
    keep(Mapping::of(file)?);
    Ok(())
}

/// A file for the page, in memory, all zero.
///
/// # Errors
/// Where the system has no memory for it.
pub fn anonymous() -> io::Result<File> {
    let name = c"extension-host-crash-page";
    let file = File::from(rustix::fs::memfd_create(
        name,
        rustix::fs::MemfdFlags::CLOEXEC,
    )?);
    file.set_len(size_of::<CrashPage>() as u64)?;
    Ok(file)
}

fn keep(made: Mapping) -> &'static CrashPage {
    let pointer = made.0.as_ptr();
    let first = PAGE.compare_exchange(
        ptr::null_mut(),
        pointer,
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    let page = match first {
        Ok(_) => {
            std::mem::forget(made);
            pointer
        }
        Err(other) => other,
    };
    // SAFETY: a mapping that is leaked, here or by who came first.
    let page = unsafe { &*page };
    page.layout.store(LAYOUT, Ordering::Relaxed);
    page
}

fn keep_instead() -> &'static CrashPage {
    // SAFETY: all zero is a value of every field.
    let page = Box::leak(unsafe { Box::<CrashPage>::new_zeroed().assume_init() });
    let first = PAGE.compare_exchange(ptr::null_mut(), page, Ordering::AcqRel, Ordering::Acquire);
    // SAFETY: leaked, here or by who came first.
    unsafe { &*first.err().unwrap_or(page) }
}

/// A page that is mapped, until it is dropped.
pub struct Mapping(NonNull<CrashPage>);

impl Mapping {
    /// Maps a file that [`anonymous`] has made, in this process or in another.
    ///
    /// # Errors
    /// Where it is too small, or the system cannot map it.
    pub fn of(file: &File) -> io::Result<Self> {
        let length = size_of::<CrashPage>();
        if file.metadata()?.len() < length as u64 {
            return Err(io::Error::other("the page of another host is smaller"));
        }
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the system chooses where, so that nothing is mapped over.
        let mapped =
            unsafe { rustix::mm::mmap(ptr::null_mut(), length, protection, flags, file, 0)? };
        NonNull::new(mapped.cast())
            .map(Self)
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Whether this host can read it.
    pub fn is_readable(&self) -> bool {
        self.layout.load(Ordering::Relaxed) == LAYOUT
    }
}

impl Deref for Mapping {
    type Target = CrashPage;

    fn deref(&self) -> &CrashPage {
        // SAFETY: mapped until the drop, as large as it, and all of it atomics, of which every bit pattern is a value.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: what `of` has mapped; references to it do not outlive `self`. Err: it stays mapped, which harms nobody.
        let _ = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), size_of::<CrashPage>()) };
    }
}

/// Ends the process because the host cannot serve any more, and says why: which extensions were being called then, and which have
/// been last, for it is code of one of them that closes or replaces what is the host's.
pub fn end_broken(what: &str, fields: &[log::Field<'_>]) -> ! {
    let inside = page().inside().into_iter().map(|place| place.extension);
    let inside = inside.collect::<BTreeSet<_>>().into_iter();
    let inside = inside.collect::<Vec<_>>().join(", ");
    let last_inside = page().last_inside().join(", ");
    let who: [log::Field<'_>; 2] = [("inside", &inside), ("last_inside", &last_inside)];
    let is_known = |field: &log::Field<'_>| !field.1.to_string().is_empty();
    let mut all = fields.to_vec();
    all.extend(who.into_iter().filter(is_known));
    process::end_broken(what, &all)
}

thread_local! {
    /// Plain, so that the handler of a signal may read it.
    static MARK: Cell<Option<&'static ThreadMark>> = const { Cell::new(None) };
    /// Gives it back when the thread ends.
    static HELD: Held = const { Held };
}

struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        let mark = MARK.get();
        // A thread that ends inside an extension calls `exit` there, which is about to be noted.
        if let Some(mark) = mark.filter(|mark| mark.build() == 0) {
            MARK.set(None);
            mark.is_taken.store(0, Ordering::Release);
        }
    }
}

impl ThreadMark {
    /// That of this thread.
    #[inline]
    pub fn of_this_thread() -> &'static Self {
        MARK.get().unwrap_or_else(Self::take)
    }

    /// That of this thread, where it has one: for the handler of a signal.
    pub fn if_taken() -> Option<&'static Self> {
        MARK.get()
    }

    #[cold]
    fn take() -> &'static Self {
        let [marks @ .., shared] = &page().threads;
        let free = |mark: &&Self| {
            mark.is_taken
                .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        };
        let mark = marks.iter().find(free).unwrap_or(shared);
        MARK.set(Some(mark));
        // Err: the thread is ending, and its place stays taken.
        let _ = HELD.try_with(|_| ());
        mark
    }

    /// Which build the thread is in, and how many times it has entered one.
    pub fn read(&self) -> (u64, u64) {
        (
            self.inside.load(Ordering::Relaxed),
            self.entry_count.load(Ordering::Relaxed),
        )
    }

    /// Notes that the loop of the worker that this is of goes round.
    pub fn give_sign_of_life(&self) {
        self.sign_count.fetch_add(1, Ordering::Relaxed);
    }

    /// How many times it has noted that.
    pub fn signs_of_life(&self) -> u64 {
        self.sign_count.load(Ordering::Relaxed)
    }

    /// Which build the thread is in; 0: none.
    pub fn build(&self) -> u64 {
        self.inside.load(Ordering::Relaxed)
    }

    /// Calls a build's code by `f`: the thread is noted to be inside it meanwhile.
    // Each call of an extension goes through here.
    #[inline(always)]
    pub fn within<R>(&self, build: u64, call: CallMark, f: impl FnOnce() -> R) -> R {
        let inside = self.enter(build, call);
        let result = f();
        inside.leave();
        result
    }

    /// Notes that the thread goes into a build, until the returned guard is told that it has left.
    #[inline]
    pub fn enter(&self, build: u64, call: CallMark) -> Inside<'_> {
        // The thread is the only writer, so that two plain steps do what an atomic one would.
        let count = self.entry_count.load(Ordering::Relaxed);
        self.entry_count
            .store(count.wrapping_add(1), Ordering::Relaxed);
        let [high, low] = words_of(call.request);
        self.request[0].store(high, Ordering::Relaxed);
        self.request[1].store(low, Ordering::Relaxed);
        self.route.store(call.route, Ordering::Relaxed);
        self.last.store(build, Ordering::Relaxed);
        self.inside.store(build, Ordering::Relaxed);
        // A signal comes to this very thread: the order in which it wrote is all that counts.
        compiler_fence(Ordering::SeqCst);
        Inside(self)
    }
}

/// The thread is inside an extension until it [leaves](Self::leave).
#[must_use]
pub struct Inside<'a>(&'a ThreadMark);

impl Inside<'_> {
    /// The thread has left it.
    #[inline]
    pub fn leave(self) {
        compiler_fence(Ordering::SeqCst);
        self.0.inside.store(0, Ordering::Relaxed);
        std::mem::forget(self);
    }
}

impl Drop for Inside<'_> {
    /// It is being unwound. What does that and is no panic of the host's, as `pthread_exit` does, will end the process: then it was
    /// inside.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.inside.store(0, Ordering::Relaxed);
        }
    }
}

fn words_of(request: [u8; 16]) -> [u64; 2] {
    let both = u128::from_ne_bytes(request);
    [(both >> 64) as u64, both as u64]
}

fn request_of(words: &[AtomicU64; 2]) -> Option<[u8; 16]> {
    let [high, low] = [&words[0], &words[1]].map(|word| u128::from(word.load(Ordering::Relaxed)));
    let bytes = (high << 64 | low).to_ne_bytes();
    bytes.iter().all(u8::is_ascii_hexdigit).then_some(bytes)
}

impl CrashPage {
    // ---- The server writes ----

    /// Notes that the process gets time to run.
    pub fn give_heartbeat(&self) {
        self.heartbeat.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives a build its number, from 1, and notes what its crash is told by.
    pub fn add_build(&self, name: u32, fingerprint: u64) -> u64 {
        let number = self.next_build.fetch_add(1, Ordering::Relaxed) + 1;
        let mark = self.mark_of(number);
        mark.number.store(0, Ordering::Relaxed);
        mark.fingerprint.store(fingerprint, Ordering::Relaxed);
        mark.generation.store(0, Ordering::Relaxed);
        mark.inode.store(0, Ordering::Relaxed);
        mark.name.store(name, Ordering::Relaxed);
        mark.ids.store(0, Ordering::Relaxed);
        mark.number.store(number, Ordering::Release);
        number
    }

    /// Notes which build of its extension it is, counted from 1.
    pub fn note_generation(&self, number: u64, generation: u64) {
        self.mark_of(number)
            .generation
            .store(generation, Ordering::Relaxed);
    }

    /// Notes the text of the ids under which it is served.
    pub fn note_ids(&self, number: u64, ids: u32) {
        self.mark_of(number).ids.store(ids, Ordering::Relaxed);
    }

    /// Notes the inode of the private copy that is loaded.
    pub fn note_copy(&self, number: u64, inode: u64) {
        self.mark_of(number).inode.store(inode, Ordering::Relaxed);
    }

    /// Keeps a text; 0 where there is no room. Not for the same text twice: who asks knows which are there.
    pub fn add_text(&self, text: &str) -> u32 {
        let text = &text.as_bytes()[..text.floor_char_boundary(TEXT_LENGTH_MAX)];
        // A byte that tells the length, and the bytes. Nothing begins at 0.
        let needed = text.len() as u32 + 1;
        let grown =
            |next: u32| Some(next.max(1) + needed).filter(|end| *end as usize <= TEXT_BYTES);
        let place = self
            .next_text
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        let Ok(place) = place.map(|place| place.max(1)) else {
            return 0;
        };
        let bytes = std::iter::once(text.len() as u8).chain(text.iter().copied());
        for (target, byte) in self.text[place as usize..].iter().zip(bytes) {
            target.store(byte, Ordering::Relaxed);
        }
        place
    }

    fn mark_of(&self, number: u64) -> &BuildMark {
        &self.builds[(number % BUILDS_MAX as u64) as usize]
    }

    // ---- The handler of a signal writes ----

    /// The build whose library has that inode; 0: none.
    pub fn build_by_inode(&self, inode: u64) -> u64 {
        let is_it = |mark: &&BuildMark| inode != 0 && mark.inode.load(Ordering::Relaxed) == inode;
        let found = self
            .builds
            .iter()
            .filter(is_it)
            .map(|mark| mark.number.load(Ordering::Relaxed));
        found.max().unwrap_or(0)
    }

    /// Gives what has been noted of the process's end, as facts for a line of the log; allocates nothing.
    pub fn tell_fault(&self, cause: &dyn Display, tell: impl FnOnce(&[log::Field<'_>])) {
        let fault = &self.fault;
        let number = fault.build.load(Ordering::Relaxed);
        let mark = self.mark_of(number);
        if number == 0 || mark.number.load(Ordering::Acquire) != number {
            return tell(&[
                ("cause", cause),
                ("extension", &"unknown: none was being called"),
            ]);
        }
        let build = mark.generation.load(Ordering::Relaxed);
        let of = |text: &AtomicU32| Text {
            page: self,
            place: text.load(Ordering::Relaxed),
        };
        let (extension, route) = (of(&mark.name), of(&fault.route));
        let request = request_of(&fault.request);
        let id = request.as_ref().map(|id| str::from_utf8(id).unwrap_or(""));
        let fields: [log::Field<'_>; 5] = [
            ("cause", cause),
            ("extension", &extension),
            ("build", &build),
            ("route", &route),
            ("request", &id.unwrap_or("")),
        ];
        // It need not have been called for a request.
        tell(&fields[..if id.is_some() { 5 } else { 3 }]);
    }

    // ---- The supervisor reads ----

    /// How often the server has noted that it gets time to run.
    pub fn heartbeats(&self) -> u64 {
        self.heartbeat.load(Ordering::Relaxed)
    }

    /// What the handler of a signal has noted.
    pub fn fault(&self) -> Option<Noted> {
        let fault = &self.fault;
        if fault.state.load(Ordering::Acquire) != 2 {
            return None;
        }
        let place = self.place(
            fault.build.load(Ordering::Relaxed),
            &fault.route,
            &fault.request,
        );
        Some(Noted {
            signal: fault.signal.load(Ordering::Relaxed),
            overflows: fault.overflows.load(Ordering::Relaxed) == 1,
            place,
        })
    }

    /// Where the threads were that were inside an extension.
    pub fn inside(&self) -> Vec<Place> {
        self.threads
            .iter()
            .filter_map(|mark| self.place_of(mark))
            .collect()
    }

    /// The extensions that threads have entered last, each once: where they have left them again, only a hint.
    fn last_inside(&self) -> Vec<String> {
        let last = self.threads.iter();
        let last = last.filter_map(|mark| self.name_of(mark.last.load(Ordering::Relaxed)));
        last.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The extension of a build; `None`: there is none of that number.
    pub fn name_of(&self, build: u64) -> Option<String> {
        let nothing = Default::default();
        Some(self.place(build, &nothing, &Default::default())?.extension)
    }

    /// Where a thread is that has a mark; `None`: in no extension.
    pub fn place_of(&self, mark: &ThreadMark) -> Option<Place> {
        self.place(mark.build(), &mark.route, &mark.request)
    }

    fn place(&self, number: u64, route: &AtomicU32, request: &[AtomicU64; 2]) -> Option<Place> {
        let mark = self.mark_of(number);
        if number == 0 || mark.number.load(Ordering::Acquire) != number {
            return None;
        }
        let request = request_of(request).map(|id| String::from_utf8_lossy(&id).into_owned());
        Some(Place {
            extension: self.text(mark.name.load(Ordering::Relaxed))?,
            ids: self
                .text(mark.ids.load(Ordering::Relaxed))
                .map(|ids| ids.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            fingerprint: mark.fingerprint.load(Ordering::Relaxed),
            generation: mark.generation.load(Ordering::Relaxed),
            route: request
                .as_ref()
                .and_then(|_| self.text(route.load(Ordering::Relaxed))),
            request,
        })
    }

    /// The route of a call, as it was declared; `None`: it has none.
    pub fn route_of(&self, call: CallMark) -> Option<String> {
        self.text(call.route)
    }

    fn text(&self, place: u32) -> Option<String> {
        let mut room = [0; TEXT_LENGTH_MAX];
        let bytes = self.text_bytes(place, &mut room)?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    fn text_bytes<'a>(&self, place: u32, room: &'a mut [u8; TEXT_LENGTH_MAX]) -> Option<&'a [u8]> {
        let from = self.text.get(place as usize..).filter(|_| place != 0)?;
        let length = usize::from(from.first()?.load(Ordering::Relaxed));
        let room = room.get_mut(..length)?;
        for (target, byte) in room.iter_mut().zip(from.get(1..=length)?) {
            *target = byte.load(Ordering::Relaxed);
        }
        Some(room)
    }
}

/// A text of the page; empty where there is none.
struct Text<'a> {
    page: &'a CrashPage,
    place: u32,
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut room = [0; TEXT_LENGTH_MAX];
        let bytes = self.page.text_bytes(self.place, &mut room);
        f.write_str(str::from_utf8(bytes.unwrap_or_default()).unwrap_or_default())
    }
}

impl Fault {
    /// Notes what ends the process, once: the first is the cause. Tells whether this was it.
    pub fn note(
        &self,
        signal: i32,
        overflows: bool,
        mark: Option<&ThreadMark>,
        build: u64,
    ) -> bool {
        let first = self
            .state
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
        if first.is_err() {
            return false;
        }
        self.signal.store(signal, Ordering::Relaxed);
        self.overflows
            .store(u32::from(overflows), Ordering::Relaxed);
        self.build.store(build, Ordering::Relaxed);
        if let Some(mark) = mark.filter(|mark| mark.build() == build) {
            self.route
                .store(mark.route.load(Ordering::Relaxed), Ordering::Relaxed);
            for (target, word) in self.request.iter().zip(&mark.request) {
                target.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        self.state.store(2, Ordering::Release);
        true
    }
}

// Another host reads the layout's number before it believes anything else.
const _: () = assert!(offset_of!(CrashPage, layout) == 0);

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> (File, Mapping) {
        let file = anonymous().unwrap();
        let mapping = Mapping::of(&file).unwrap();
        (file, mapping)
    }

    #[test]
    fn what_one_mapping_writes_another_reads() {
        let (file, written) = shared();
        let (name, route) = (
            written.add_text("directus-extension-a"),
            written.add_text("GET /a/:id"),
        );
        let build = written.add_build(name, 77);
        written.note_generation(build, 3);
        written.note_ids(build, written.add_text("a,b"));
        let call = CallMark {
            request: *b"0123456789abcdef",
            route,
        };
        let inside = written.threads[4].enter(build, call);
        let read = Mapping::of(&file).unwrap();
        let place = Place {
            extension: "directus-extension-a".into(),
            ids: vec!["a".into(), "b".into()],
            fingerprint: 77,
            generation: 3,
            route: Some("GET /a/:id".into()),
            request: Some("0123456789abcdef".into()),
        };
        assert_eq!(read.inside(), std::slice::from_ref(&place));
        written
            .fault
            .note(11, true, Some(&written.threads[4]), build);
        written.fault.note(6, false, None, 0);
        let noted = Noted {
            signal: 11,
            overflows: true,
            place: Some(place),
        };
        assert_eq!(read.fault(), Some(noted));
        inside.leave();
        assert_eq!(read.inside(), []);
    }

    #[test]
    fn the_page_is_never_full() {
        let (_, page) = shared();
        let name = page.add_text("a");
        let text = "x".repeat(300);
        let mut last = 1;
        for _ in 0..2_000 {
            last = page.add_text(&text);
        }
        assert_eq!(last, 0);
        let first = page.add_build(name, 0);
        for _ in 0..BUILDS_MAX {
            page.add_build(name, 0);
        }
        let _inside = page.threads[0].enter(first, CallMark::default());
        assert_eq!(page.inside(), [], "its place was taken");
        let youngest = page.add_build(name, 5);
        let _inside = page.threads[0].enter(youngest, CallMark::default());
        assert_eq!(page.inside()[0].fingerprint, 5);
    }

    #[test]
    fn a_page_that_is_too_small_is_not_mapped() {
        let file = anonymous().unwrap();
        file.set_len(100).unwrap();
        assert!(Mapping::of(&file).is_err());
    }
}
