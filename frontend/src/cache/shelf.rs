//! The kept answers: what is read without a lock.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::Cache as Bounded;
use quick_cache::{DefaultHashBuilder, Equivalent, Lifecycle, UnitWeighter, Weighter};

use super::Copied;
use crate::shown::Shown;

/// Answers about numbers that no book has. They go all at once when a book is added, and cannot push out books.
const UNKNOWN_MAX: usize = 4_096;
/// What an entry costs besides its answer, in bytes, about.
const ENTRY_BYTES: u64 = 128;
/// A typical answer with its header fields, in bytes: the first guess at how many there will be.
const ANSWER_BYTES: u64 = 1_024;

/// What can be asked for and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target<'t> {
    /// The book of this number.
    Book(u64),
    /// A page of a topic.
    Page {
        /// Its slug.
        slug: &'t str,
        /// Titles after this one.
        after: Option<&'t str>,
        /// At most so many.
        limit: u32,
    },
    /// The list of topics.
    Topics,
}

/// `Target::Page`, owned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Page {
    pub(super) slug: String,
    after: Option<String>,
    limit: u32,
}

impl Page {
    fn parts(&self) -> (&str, Option<&str>, u32) {
        (&self.slug, self.after.as_deref(), self.limit)
    }
}

impl Hash for Page {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

/// The parts of a page, to find it without an allocation.
#[derive(Hash)]
struct Parts<'t>((&'t str, Option<&'t str>, u32));

impl Equivalent<Page> for Parts<'_> {
    fn equivalent(&self, page: &Page) -> bool {
        self.0 == page.parts()
    }
}

/// `Target`, owned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OwnedTarget {
    Book(u64),
    Page(Page),
    Topics,
}

impl Target<'_> {
    pub(super) fn owned(&self) -> OwnedTarget {
        match *self {
            Target::Book(id) => OwnedTarget::Book(id),
            Target::Page { slug, after, limit } => {
                OwnedTarget::Page(Page { slug: slug.to_owned(), after: after.map(str::to_owned), limit })
            }
            Target::Topics => OwnedTarget::Topics,
        }
    }
}

#[derive(Clone)]
struct ByBytes;

impl<K> Weighter<K, Copied> for ByBytes {
    fn weight(&self, _: &K, copied: &Copied) -> u64 {
        copied.shown.bytes() + ENTRY_BYTES
    }
}

/// Counts what goes for lack of room.
#[derive(Clone, Default)]
struct Evictions(Arc<AtomicU64>);

impl<K> Lifecycle<K, Copied> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: K, _: Copied) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A bounded map that counts its evictions.
type Kept<K, W> = Bounded<K, Copied, W, DefaultHashBuilder, Evictions>;

pub(super) struct Shelf {
    books: Kept<u64, ByBytes>,
    unknown: Kept<u64, UnitWeighter>,
    pages: Kept<Page, ByBytes>,
    topics: Mutex<Option<Copied>>,
    evictions: Evictions,
}

impl Shelf {
    /// Room for about `bytes_max` bytes, three quarters of it for books.
    pub(super) fn new(bytes_max: u64) -> Shelf {
        let (pages, books) = (bytes_max / 4, bytes_max - bytes_max / 4);
        let items = |bytes: u64| usize::try_from(bytes / ANSWER_BYTES).unwrap_or(usize::MAX).max(16);
        let evictions = Evictions::default();
        let (hash, counted) = (DefaultHashBuilder::default, || evictions.clone());
        Shelf {
            books: Bounded::with(items(books), books, ByBytes, hash(), counted()),
            unknown: Bounded::with(UNKNOWN_MAX, UNKNOWN_MAX as u64, UnitWeighter, hash(), counted()),
            pages: Bounded::with(items(pages), pages, ByBytes, hash(), counted()),
            topics: Mutex::new(None),
            evictions,
        }
    }

    pub(super) fn get(&self, target: &Target<'_>) -> Option<Copied> {
        match *target {
            Target::Book(id) => self.books.get(&id).or_else(|| self.unknown.get(&id)),
            Target::Page { slug, after, limit } => self.pages.get(&Parts((slug, after, limit))),
            Target::Topics => self.topics().clone(),
        }
    }

    /// Keeps an answer, unless a newer one is there.
    pub(super) fn keep(&self, target: &OwnedTarget, shown: &Arc<Shown>, epoch: u64) {
        let copied = Copied { shown: shown.clone(), epoch };
        let newer = |kept: Option<Copied>| {
            kept.is_some_and(|kept| kept.epoch == epoch && kept.shown.version() > shown.version())
        };
        match target {
            OwnedTarget::Book(id) if shown.is_missing() => self.unknown.insert(*id, copied),
            OwnedTarget::Book(id) => {
                if !newer(self.books.get(id)) {
                    self.books.insert(*id, copied);
                }
            }
            OwnedTarget::Page(page) => {
                if !newer(self.pages.get(page)) {
                    self.pages.insert(page.clone(), copied);
                }
            }
            OwnedTarget::Topics => *self.topics() = Some(copied),
        }
    }

    /// Answers kept, and the memory they take, in bytes, about.
    pub(super) fn load(&self) -> (u64, u64) {
        let topics = u64::from(self.topics().is_some());
        let entries = self.books.len() + self.unknown.len() + self.pages.len();
        let bytes =
            self.books.weight() + self.pages.weight() + (self.unknown.weight() + topics) * ANSWER_BYTES;
        (entries as u64 + topics, bytes)
    }

    /// Answers that had to go for lack of room.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions.0.load(Ordering::Relaxed)
    }

    pub(super) fn drop_book(&self, id: u64) {
        self.books.remove(&id);
        self.unknown.remove(&id);
    }

    pub(super) fn drop_unknown(&self) {
        self.unknown.clear();
    }

    /// Drops the pages of one topic, or of all.
    pub(super) fn drop_pages(&self, slug: Option<&str>) {
        match slug {
            None => self.pages.clear(),
            Some(slug) => self.pages.retain(|page, _| page.slug != slug),
        }
    }

    pub(super) fn drop_topics(&self) {
        *self.topics() = None;
    }

    pub(super) fn clear(&self) {
        self.books.clear();
        self.unknown.clear();
        self.pages.clear();
        self.drop_topics();
    }

    fn topics(&self) -> std::sync::MutexGuard<'_, Option<Copied>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
