//! What the system's loader goes by in an ELF library: its dynamic table, the symbols and names that this leads to. Section headers
//! are for linkers and debuggers; a library need not have any.

use object::elf;
use object::read::ReadRef;
use object::read::elf::{Dyn as _, FileHeader, ProgramHeader as _, Sym as _};
use object::{Endianness, U32};

use super::entry::LibraryFacts;
use super::file::Fault;

/// The dynamic table of a library, and how its addresses lead into the file.
pub struct Dynamic<'data, Elf: FileHeader<Endian = Endianness>, R: ReadRef<'data>> {
    endian: Endianness,
    data: R,
    segments: &'data [Elf::ProgramHeader],
    table: &'data [Elf::Dyn],
    names: &'data [u8],
}

impl<'data, Elf, R> Dynamic<'data, Elf, R>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    /// Finds the table.
    ///
    /// # Errors
    /// Where the file is damaged, or has no symbols at all.
    pub fn parse(header: &Elf, data: R) -> Result<Self, Fault> {
        let endian = header.endian()?;
        let segments = header.program_headers(endian, data)?;
        let length = data.len().map_err(|()| damaged("its length is unknown"))?;
        let mut table: &[Elf::Dyn] = &[];
        for segment in segments {
            let (offset, size) = segment.file_range(endian);
            let is_loaded = segment.p_type(endian) == elf::PT_LOAD;
            // What is missing there would be a SIGBUS when it is touched.
            if is_loaded && offset.checked_add(size).is_none_or(|end| end > length) {
                return Err(damaged("a part of it is missing"));
            }
            if let Some(found) = segment.dynamic(endian, data)? {
                table = found;
            }
        }
        let mut dynamic = Self {
            endian,
            data,
            segments,
            table,
            names: &[],
        };
        let (Some(names), Some(size)) =
            (dynamic.value(elf::DT_STRTAB), dynamic.value(elf::DT_STRSZ))
        else {
            return Err(Fault::NoEntry);
        };
        dynamic.names = dynamic.bytes(names, size)?;
        Ok(dynamic)
    }

    fn entries(&self) -> impl Iterator<Item = (elf::DynamicTag, u64)> {
        let entries = self
            .table
            .iter()
            .map(|entry| (entry.tag(self.endian), entry.val(self.endian)));
        entries.take_while(|(tag, _)| *tag != elf::DT_NULL)
    }

    fn value(&self, wanted: elf::DynamicTag) -> Option<u64> {
        let mut entries = self.entries();
        entries.find_map(|(tag, value)| (tag == wanted).then_some(value))
    }

    /// Where an address lies in the file, and how much of its segment follows there; `None`: nowhere.
    pub fn offset(&self, address: u64) -> Option<(u64, u64)> {
        self.segments.iter().find_map(|segment| {
            if segment.p_type(self.endian) != elf::PT_LOAD {
                return None;
            }
            let (offset, size) = segment.file_range(self.endian);
            let within = address.checked_sub(segment.p_vaddr(self.endian).into())?;
            let left = size.checked_sub(within).filter(|left| *left > 0)?;
            Some((offset.checked_add(within)?, left))
        })
    }

    fn bytes(&self, address: u64, size: u64) -> Result<&'data [u8], Fault> {
        let (offset, left) = self.place(address)?;
        if size > left {
            return Err(damaged("a part of it is missing"));
        }
        let bytes = self.data.read_bytes_at(offset, size);
        bytes.map_err(|()| damaged("a part of it is missing"))
    }

    fn place(&self, address: u64) -> Result<(u64, u64), Fault> {
        let place = self.offset(address);
        place.ok_or_else(|| damaged("an address in it leads nowhere"))
    }

    fn numbers(&self, address: u64, count: u64) -> Result<&'data [U32<Endianness>], Fault> {
        let (offset, left) = self.place(address)?;
        if count > left / 4 {
            return Err(damaged("a part of it is missing"));
        }
        let numbers = self.data.read_slice_at(offset, count as usize);
        numbers.map_err(|()| damaged("a part of it is missing"))
    }

    /// A zero-terminated text among the names.
    pub fn name(&self, offset: u64) -> &'data [u8] {
        let rest = self.names.get(offset as usize..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// The symbols that the library exports or asks for.
    ///
    /// # Errors
    /// Where the file is damaged.
    pub fn symbols(&self) -> Result<&'data [Elf::Sym], Fault> {
        let count = self.symbol_count()?;
        let Some(address) = self.value(elf::DT_SYMTAB).filter(|_| count > 0) else {
            return Ok(&[]);
        };
        let (offset, left) = self.place(address)?;
        if count > left / size_of::<Elf::Sym>() as u64 {
            return Err(damaged("a part of it is missing"));
        }
        let symbols = self.data.read_slice_at(offset, count as usize);
        symbols.map_err(|()| damaged("a part of it is missing"))
    }

    /// How many symbols there are: only the tables of hashes tell.
    fn symbol_count(&self) -> Result<u64, Fault> {
        let endian = self.endian;
        if let Some(address) = self.value(elf::DT_HASH) {
            let [_, chains] = self.numbers(address, 2)? else {
                return Ok(0);
            };
            return Ok(chains.get(endian).into());
        }
        let Some(address) = self.value(elf::DT_GNU_HASH) else {
            return Ok(0);
        };
        // https://sourceware.org/legacy-ml/binutils/2006-10/msg00377.html
        let [buckets, first, filters, _] = self.numbers(address, 4)? else {
            return Ok(0);
        };
        let (count, first) = (u64::from(buckets.get(endian)), u64::from(first.get(endian)));
        let word = if Elf::is_type_64_sized() { 8 } else { 4 };
        let filters = u64::from(filters.get(endian)) * word;
        let buckets_at = address.saturating_add(16 + filters);
        let buckets = self.numbers(buckets_at, count)?;
        let last = buckets.iter().map(|bucket| bucket.get(endian)).max();
        let last = u64::from(last.unwrap_or(0));
        let Some(mut link) = last.checked_sub(first) else {
            return Ok(first);
        };
        let chains_at = buckets_at.saturating_add(count * 4);
        // The last link of the last chain has its lowest bit set.
        while self
            .numbers(chains_at.saturating_add(link * 4), 1)?
            .first()
            .is_some_and(|hash| hash.get(endian) & 1 == 0)
        {
            link += 1;
        }
        Ok(first + link + 1)
    }

    /// Where in the file the names stand that it has, and that it needs: those that are no part of a longer one.
    pub fn library_names(&self) -> Vec<(u64, String)> {
        let Some((start, _)) = self
            .value(elf::DT_STRTAB)
            .and_then(|address| self.offset(address))
        else {
            return Vec::new();
        };
        let is_whole = |at: u64| {
            at.checked_sub(1)
                .and_then(|before| self.names.get(before as usize))
                .is_some_and(|byte| *byte == 0)
        };
        let named = |(tag, at): (elf::DynamicTag, u64)| {
            let is_name = matches!(tag, elf::DT_NEEDED | elf::DT_SONAME) && is_whole(at);
            let name = String::from_utf8(self.name(at).to_vec()).ok()?;
            is_name.then_some((start + at, name))
        };
        self.entries().filter_map(named).collect()
    }

    /// What of the library decides how it can be loaded, and loaded again.
    pub fn facts(&self, symbols: &[Elf::Sym]) -> LibraryFacts {
        let text = |offset| String::from_utf8_lossy(self.name(offset)).into_owned();
        let of_tag = |wanted| {
            let entries = self.entries().filter(move |(tag, _)| *tag == wanted);
            entries.map(|(_, value)| text(value))
        };
        let is_unique = |symbol: &&Elf::Sym| {
            symbol.st_bind() == elf::STB_GNU_UNIQUE && !symbol.is_undefined(self.endian)
        };
        let unique = symbols.iter().find(is_unique);
        let flags = self.value(elf::DT_FLAGS).unwrap_or(0);
        LibraryFacts {
            unique_symbol: unique.map(|symbol| text(symbol.st_name(self.endian).into())),
            has_static_tls: flags & elf::DF_STATIC_TLS.0 != 0,
            needed: of_tag(elf::DT_NEEDED).collect(),
            looks_beside: of_tag(elf::DT_RUNPATH)
                .chain(of_tag(elf::DT_RPATH))
                .any(|path| path.contains("$ORIGIN") || path.contains("${ORIGIN}")),
        }
    }
}

fn damaged(how: &str) -> Fault {
    Fault::NotALibrary(format!("damaged ({how})"))
}
