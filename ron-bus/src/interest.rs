//! Classes of events, and which of them a reader wants.

use std::ops::BitOr;

/// One of at most 64 classes that the events of a type fall into.
///
/// ```
/// use ron_bus::Class;
///
/// const CANCELLED: Class = Class::at::<2>();
/// assert_eq!(CANCELLED.index(), 2);
/// assert_eq!(Class::new(64), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class(u8);

impl Class {
    pub(crate) const COUNT: usize = 64;

    /// The class `N`, 0 to 63; a larger one does not compile.
    #[must_use]
    pub const fn at<const N: u8>() -> Self {
        const { assert!(N < 64, "there are 64 classes, 0 to 63") };
        Self(N)
    }

    /// The class `index`, if it is 0 to 63.
    #[must_use]
    pub const fn new(index: u8) -> Option<Self> {
        if index < 64 {
            Some(Self(index))
        } else {
            None
        }
    }

    /// Its number, 0 to 63.
    #[must_use]
    pub const fn index(self) -> u8 {
        self.0
    }
}

/// Tells the class of an event, so that readers can name the classes they want.
///
/// Publishers call it for each event as soon as the topic has had a reader with an
/// [`interest`](crate::SubscriberBuilder::interest); such a reader calls it for retained events. Nobody holds a lock
/// then. It should be a `match` and nothing more; if it panics, so does the publisher, and nothing is published.
pub trait Classify {
    /// The class of this event. Must be the same each time.
    fn class(&self) -> Class;
}

/// What a reader wants, and how to tell.
pub(crate) type Selection<E> = (Interest, fn(&E) -> Class);

/// A set of classes.
///
/// ```
/// use ron_bus::{Class, Interest};
///
/// let urgent = Class::at::<0>() | Class::at::<7>();
/// assert!(urgent.contains(Class::at::<7>()) && !urgent.contains(Class::at::<1>()));
/// assert_eq!(Interest::NONE | Class::at::<0>() | Class::at::<7>(), urgent);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interest(pub(crate) u64);

impl Interest {
    /// Every class.
    pub const ALL: Self = Self(u64::MAX);
    /// No class: such a reader receives only the last event of a topic.
    pub const NONE: Self = Self(0);

    /// Whether the class is in the set.
    #[must_use]
    pub const fn contains(self, class: Class) -> bool {
        self.0 >> class.0 & 1 == 1
    }
}

impl From<Class> for Interest {
    fn from(class: Class) -> Self {
        Self(1 << class.0)
    }
}

impl BitOr for Class {
    type Output = Interest;

    fn bitor(self, other: Self) -> Interest {
        Interest::from(self) | other
    }
}

impl BitOr<Class> for Interest {
    type Output = Self;

    fn bitor(self, class: Class) -> Self {
        self | Self::from(class)
    }
}

impl BitOr for Interest {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<Class> for Interest {
    fn from_iter<I: IntoIterator<Item = Class>>(classes: I) -> Self {
        classes.into_iter().fold(Self::NONE, BitOr::bitor)
    }
}
