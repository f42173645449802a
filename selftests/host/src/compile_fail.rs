// SPDX-License-Identifier: GPL-2.0

//! Misuse of the abstractions that must not compile. Beside each such test there is one that
//! compiles and differs in one line, so that the first cannot fail for another reason.

/// Readers may still use a value that [`Published::replace`](crate::Published::replace) has
/// returned. It can be read and dropped:
///
/// ```
/// # use host::{prelude::GFP_KERNEL, Published, RcuBox};
/// # let (a, b) = (Published::<u32>::default(), Published::<u32>::default());
/// # a.replace(Some(RcuBox::new(1, GFP_KERNEL).unwrap()));
/// let old = a.replace(None).unwrap();
/// assert_eq!(*old, 1);
/// b.replace(None);
/// ```
///
/// It cannot be published again:
///
/// ```compile_fail,E0308
/// # use host::{prelude::GFP_KERNEL, Published, RcuBox};
/// # let (a, b) = (Published::<u32>::default(), Published::<u32>::default());
/// # a.replace(Some(RcuBox::new(1, GFP_KERNEL).unwrap()));
/// let old = a.replace(None).unwrap();
/// assert_eq!(*old, 1);
/// b.replace(Some(old));
/// ```
///
/// It cannot be changed:
///
/// ```compile_fail,E0594
/// # use host::{prelude::GFP_KERNEL, Published, RcuBox};
/// # let (a, b) = (Published::<u32>::default(), Published::<u32>::default());
/// # a.replace(Some(RcuBox::new(1, GFP_KERNEL).unwrap()));
/// let mut old = a.replace(None).unwrap();
/// *old = 2;
/// b.replace(None);
/// ```
///
/// It cannot be kept beyond the `Published`, for instance by a value that is dropped by RCU:
///
/// ```compile_fail,E0505
/// # use host::{prelude::GFP_KERNEL, Published, RcuBox};
/// # let (a, b) = (Published::<u32>::default(), Published::<u32>::default());
/// # a.replace(Some(RcuBox::new(1, GFP_KERNEL).unwrap()));
/// let old = a.replace(None).unwrap();
/// drop(a);
/// assert_eq!(*old, 1);
/// ```
///
/// A reader cannot use a value after its critical section, or after the `Published`:
///
/// ```compile_fail,E0505
/// # use host::{prelude::GFP_KERNEL, Published, RcuBox};
/// # use host::sync::rcu;
/// # let a = Published::<u32>::default();
/// # let guard = rcu::read_lock();
/// let value = a.read(&guard);
/// drop(guard);
/// assert_eq!(value, None);
/// ```
///
/// ```compile_fail,E0505
/// # use host::{prelude::GFP_KERNEL, Published, RcuBox};
/// # use host::sync::rcu;
/// # let a = Published::<u32>::default();
/// # let guard = rcu::read_lock();
/// let value = a.read(&guard);
/// drop(a);
/// assert_eq!(value, None);
/// ```
///
/// ```
/// # use host::{prelude::GFP_KERNEL, Published, RcuBox};
/// # use host::sync::rcu;
/// # let a = Published::<u32>::default();
/// # let guard = rcu::read_lock();
/// let value = a.read(&guard);
/// assert_eq!(value, None);
/// drop(guard);
/// drop(a);
/// ```
pub struct RetiredValues;

/// A type has an [`Id`](crate::Id) of its own:
///
/// ```
/// # use host::{prelude::Result, Id, Namespace, PerNamespace, StaticId};
/// struct One;
/// struct Other;
///
/// static ONE: Id<One> = Id::new();
/// static OTHER: Id<Other> = Id::new();
///
/// impl PerNamespace for One {
///     const ID: StaticId<Self> = StaticId::new(&ONE);
///
///     fn new(_: &Namespace) -> Result<Self> {
///         Ok(One)
///     }
/// }
/// ```
///
/// It cannot have that of another type:
///
/// ```compile_fail,E0308
/// # use host::{prelude::Result, Id, Namespace, PerNamespace, StaticId};
/// struct One;
/// struct Other;
///
/// static ONE: Id<One> = Id::new();
/// static OTHER: Id<Other> = Id::new();
///
/// impl PerNamespace for One {
///     const ID: StaticId<Self> = StaticId::new(&OTHER);
///
///     fn new(_: &Namespace) -> Result<Self> {
///         Ok(One)
///     }
/// }
/// ```
///
/// It cannot be a local variable:
///
/// ```compile_fail,E0597
/// # use host::{Id, StaticId};
/// struct One;
///
/// let one = Id::<One>::new();
/// StaticId::new(&one);
/// ```
pub struct NamespaceIds;
