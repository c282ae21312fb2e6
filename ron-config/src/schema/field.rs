//! Keys with their value's type erased: set, compare, copy and show one field of a settings struct.

use std::sync::Arc;

use serde_json::{json, Value as Json};

use super::{Built, Get, Meta};
use crate::document::Kind;
use crate::resolve::{fill_item, Filling};
use crate::schema::Settings;
use crate::value::{read_choice, Input, Mismatch, Value};

/// One field of `T`.
pub(crate) trait Field<T>: Send + Sync {
    /// Reads the input into the field. A list reports defects of its items to `filling` and succeeds.
    fn set(
        &self,
        target: &mut T,
        input: Input<'_>,
        path: &str,
        filling: &mut Filling<'_>,
    ) -> Result<(), Mismatch>;
    fn same(&self, a: &mut T, b: &mut T) -> bool;
    fn copy(&self, from: &mut T, to: &mut T);
    /// The value as output may show it, but for a secret marked on the key rather than by its type.
    fn show(&self, target: &mut T) -> Json;
    /// The keys of the items of a list, as `path[0].name`.
    fn leaves(&self, _target: &mut T, _path: &str) -> Vec<Leaf> {
        Vec::new()
    }
}

/// One key of an item of a list.
pub(crate) struct Leaf {
    pub(crate) path: String,
    pub(crate) value: Json,
    pub(crate) meta: Meta,
}

pub(super) struct Typed<T, V> {
    pub(super) get: Get<T, V>,
}

impl<T, V: Value> Field<T> for Typed<T, V> {
    fn set(
        &self,
        target: &mut T,
        input: Input<'_>,
        _path: &str,
        _filling: &mut Filling<'_>,
    ) -> Result<(), Mismatch> {
        *(self.get)(target) = V::read(input)?;
        Ok(())
    }
    fn same(&self, a: &mut T, b: &mut T) -> bool {
        (self.get)(a) == (self.get)(b)
    }
    fn copy(&self, from: &mut T, to: &mut T) {
        *(self.get)(to) = (self.get)(from).clone();
    }
    fn show(&self, target: &mut T) -> Json {
        (self.get)(target).show()
    }
}

pub(super) struct Choice<T, V> {
    pub(super) get: Get<T, V>,
    pub(super) choices: Vec<(&'static str, V)>,
}

impl<T, V> Field<T> for Choice<T, V>
where
    V: Clone + PartialEq + Send + Sync + 'static,
{
    fn set(
        &self,
        target: &mut T,
        input: Input<'_>,
        _path: &str,
        _filling: &mut Filling<'_>,
    ) -> Result<(), Mismatch> {
        *(self.get)(target) = read_choice(input, &self.choices)?.clone();
        Ok(())
    }
    fn same(&self, a: &mut T, b: &mut T) -> bool {
        (self.get)(a) == (self.get)(b)
    }
    fn copy(&self, from: &mut T, to: &mut T) {
        *(self.get)(to) = (self.get)(from).clone();
    }
    fn show(&self, target: &mut T) -> Json {
        let value = (self.get)(target);
        let word = self.choices.iter().find(|(_, choice)| choice == value);
        word.map_or(Json::Null, |(word, _)| (*word).into())
    }
}

pub(super) struct Items<T, I> {
    pub(super) get: Get<T, Vec<I>>,
    pub(super) item: Built<I>,
}

impl<T, I: Settings> Field<T> for Items<T, I> {
    fn set(
        &self,
        target: &mut T,
        input: Input<'_>,
        path: &str,
        filling: &mut Filling<'_>,
    ) -> Result<(), Mismatch> {
        let nodes = match input.as_node().map(|node| &node.kind) {
            Some(Kind::List(nodes)) => nodes,
            _ => return Err(input.mismatch()),
        };
        let mut items = Vec::with_capacity(nodes.len());
        for (i, node) in nodes.iter().enumerate() {
            match &node.kind {
                Kind::Table(entries) => {
                    let path = format!("{path}[{i}]");
                    items.push(fill_item(&self.item, entries, node.span, &path, filling));
                }
                _ => return Err(Input::node(node).mismatch()),
            }
        }
        *(self.get)(target) = items;
        Ok(())
    }

    fn same(&self, a: &mut T, b: &mut T) -> bool {
        let (a, b) = ((self.get)(a), (self.get)(b));
        a.len() == b.len()
            && a.iter_mut().zip(b).all(|(a, b)| {
                let mut keys = self.item.keys.iter();
                keys.all(|key| key.field.same(a, b))
            })
    }

    fn copy(&self, from: &mut T, to: &mut T) {
        *(self.get)(to) = (self.get)(from).clone();
    }

    fn show(&self, target: &mut T) -> Json {
        let show = |item: &mut I| {
            let mut members = json!({});
            for key in &self.item.keys {
                let value = key.meta.shown(key.field.show(item));
                let mut at = &mut members;
                for segment in key.meta.path.split('.') {
                    at = &mut at[segment];
                }
                *at = value;
            }
            members
        };
        (self.get)(target).iter_mut().map(show).collect()
    }

    fn leaves(&self, target: &mut T, path: &str) -> Vec<Leaf> {
        let mut leaves = Vec::new();
        for (i, item) in (self.get)(target).iter_mut().enumerate() {
            for key in &self.item.keys {
                let path = format!("{path}[{i}].{}", key.meta.path);
                leaves.push(Leaf {
                    value: key.meta.shown(key.field.show(item)),
                    meta: key.meta.clone(),
                    path: path.clone(),
                });
                leaves.extend(key.field.leaves(item, &path));
            }
        }
        leaves
    }
}

/// A field of an embedded `U` as a field of `T`.
pub(super) struct Lens<T, U> {
    pub(super) outer: Get<T, U>,
    pub(super) inner: Arc<dyn Field<U>>,
}

impl<T, U> Field<T> for Lens<T, U> {
    fn set(
        &self,
        target: &mut T,
        input: Input<'_>,
        path: &str,
        filling: &mut Filling<'_>,
    ) -> Result<(), Mismatch> {
        self.inner.set((self.outer)(target), input, path, filling)
    }
    fn same(&self, a: &mut T, b: &mut T) -> bool {
        self.inner.same((self.outer)(a), (self.outer)(b))
    }
    fn copy(&self, from: &mut T, to: &mut T) {
        self.inner.copy((self.outer)(from), (self.outer)(to));
    }
    fn show(&self, target: &mut T) -> Json {
        self.inner.show((self.outer)(target))
    }
    fn leaves(&self, target: &mut T, path: &str) -> Vec<Leaf> {
        self.inner.leaves((self.outer)(target), path)
    }
}
