//! Which handler answers what.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::http::request::Parts;
use hyper::Method;
use tokio_util::sync::ReusableBoxFuture;

use super::answer::Answer;
use super::call::Call;
use super::refusal::Refusal;

/// An answer in the making, in memory that the connection's next one is made in.
pub(crate) type Answering = ReusableBoxFuture<'static, Result<Answer, Refusal>>;
type Handler = Arc<dyn Fn(Call, &mut Answering) + Send + Sync>;
type Allowing = Arc<dyn Fn(&Parts) -> Result<Option<BodyAllowance>, Refusal> + Send + Sync>;

/// What a route does to the node, which decides when it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Open while the node is degraded or not ready, unless that is fail-secure.
    Read,
    /// Refused as soon as the node is not ready.
    Write,
}

/// What the body of a request may be, in place of what the settings say. A capability may allow less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyAllowance {
    /// Bytes, as they are sent and as they are inflated.
    pub bytes: u64,
    /// From the head to the last byte.
    pub timeout: Duration,
}

/// Routes by template: literal segments, and `{name}` for one segment.
#[derive(Clone, Default)]
pub struct Routes {
    templates: Vec<Template>,
    scope: Option<&'static str>,
    words: Option<Words>,
}

type Words = fn(&Refusal) -> Option<&'static str>;

#[derive(Clone)]
struct Template {
    text: &'static str,
    methods: BTreeMap<&'static str, Endpoint>,
}

#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) access: Access,
    pub(crate) scope: Option<&'static str>,
    pub(crate) allowing: Allowing,
    pub(crate) handler: Handler,
}

pub(crate) enum Found<'a> {
    Endpoint {
        /// Which of the [`templates`](Routes::templates).
        place: usize,
        endpoint: &'a Endpoint,
    },
    /// The methods that there are.
    OtherMethod {
        place: usize,
        allow: String,
    },
    Nothing,
}

impl Routes {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whatever is added from here on needs a capability that has this scope, or is restricted to none.
    pub fn scope(mut self, scope: &'static str) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Has refusals counted in `rejected_total` by the words of a runbook; what has none is not counted there. Without it
    /// they are counted by status, those of 408, 413, 415, 429, 503 and 507.
    pub fn counted_as(mut self, words: fn(&Refusal) -> Option<&'static str>) -> Self {
        self.words = Some(words);
        self
    }

    /// What a refusal is counted as.
    pub(crate) fn word(&self, refusal: &Refusal) -> Option<Cow<'static, str>> {
        if let Some(words) = self.words {
            return words(refusal).map(Cow::Borrowed);
        }
        let (status, reason) = (refusal.status(), refusal.reason());
        let is_counted = [408, 413, 415, 429, 503, 507].contains(&status.as_u16());
        is_counted.then(|| match reason {
            "decompress" => Cow::Borrowed(reason),
            _ => Cow::Owned(status.as_str().to_owned()),
        })
    }

    /// Adds a route. HEAD is answered by the handler of GET, whose body is not sent.
    pub fn route<F, Fut>(
        self,
        method: &'static str,
        template: &'static str,
        access: Access,
        handler: F,
    ) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, Refusal>> + Send + 'static,
    {
        self.route_allowing(method, template, access, |_| Ok(None), handler)
    }

    /// As [`route`](Self::route), with `allowing` asked what the body of a request may be, before any of it is read; `None`
    /// is what the settings say. What it refuses gets no further.
    pub fn route_allowing<A, F, Fut>(
        mut self,
        method: &'static str,
        template: &'static str,
        access: Access,
        allowing: A,
        handler: F,
    ) -> Self
    where
        A: Fn(&Parts) -> Result<Option<BodyAllowance>, Refusal> + Send + Sync + 'static,
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, Refusal>> + Send + 'static,
    {
        let endpoint = Endpoint {
            access,
            scope: self.scope,
            allowing: Arc::new(allowing),
            handler: Arc::new(move |call, answering| answering.set(handler(call))),
        };
        let known = self.templates.iter_mut().find(|t| t.text == template);
        match known {
            Some(known) => drop(known.methods.insert(method, endpoint)),
            None => self.templates.push(Template {
                text: template,
                methods: BTreeMap::from([(method, endpoint)]),
            }),
        }
        self
    }

    pub(crate) fn templates(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.templates.iter().map(|template| template.text)
    }

    /// The template in this place.
    pub(crate) fn template(&self, place: usize) -> &'static str {
        self.templates
            .get(place)
            .map_or("", |template| template.text)
    }

    pub(crate) fn find(&self, method: &Method, path: &str) -> Found<'_> {
        let mut templates = self.templates.iter().enumerate();
        let Some((place, template)) = templates.find(|(_, template)| template.covers(path)) else {
            return Found::Nothing;
        };
        let asked = match method.as_str() {
            "HEAD" if !template.methods.contains_key("HEAD") => "GET",
            other => other,
        };
        match template.methods.get(asked) {
            Some(endpoint) => Found::Endpoint { place, endpoint },
            None => Found::OtherMethod {
                place,
                allow: template.allow(),
            },
        }
    }
}

impl Template {
    fn covers(&self, path: &str) -> bool {
        walk(self.text, path, |_, _| {})
    }

    fn allow(&self) -> String {
        let mut methods: Vec<&str> = self.methods.keys().copied().collect();
        if self.methods.contains_key("GET") && !self.methods.contains_key("HEAD") {
            methods.push("HEAD");
        }
        methods.sort_unstable();
        methods.join(", ")
    }
}

/// What stands in `path` in the place of `{wanted}` in the template that covers it.
pub(crate) fn param<'p>(template: &str, path: &'p str, wanted: &str) -> Option<&'p str> {
    let mut found = None;
    walk(template, path, |name, value| {
        if name == wanted {
            found = Some(value);
        }
    });
    found
}

/// Whether a template covers a path; `tell` hears what stands in the place of each name.
fn walk<'p>(mut template: &str, mut path: &'p str, mut tell: impl FnMut(&str, &'p str)) -> bool {
    while let Some((literal, (name, after))) = template
        .split_once('{')
        .and_then(|(literal, rest)| Some((literal, rest.split_once('}')?)))
    {
        let Some(rest) = path.strip_prefix(literal) else {
            return false;
        };
        let (value, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        tell(name, value);
        (template, path) = (after, rest);
    }
    template == path
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = |t: &Template| format!("{} {}", t.allow(), t.text);
        f.debug_list()
            .entries(self.templates.iter().map(each))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::StatusCode;

    fn routes() -> Routes {
        let ok = |_| async { Ok(Answer::empty(StatusCode::OK)) };
        Routes::new()
            .route("PUT", "/put", Access::Write, ok)
            .route("POST", "/put", Access::Write, ok)
            .route("GET", "/o/{addr}", Access::Read, ok)
            .route("GET", "/a/{b}/c/{d}/e", Access::Read, ok)
    }

    fn told(method: Method, path: &str) -> String {
        let routes = routes();
        let template = |place: usize| routes.templates().nth(place).unwrap();
        match routes.find(&method, path) {
            Found::Endpoint { place, .. } => {
                let template = template(place);
                let mut params = Vec::new();
                walk(template, path, |name, value| {
                    assert_eq!(param(template, path, name), Some(value));
                    params.push((name.to_owned(), value));
                });
                format!("{template} {params:?}")
            }
            Found::OtherMethod { place, allow } => format!("{} not {allow}", template(place)),
            Found::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn a_path_finds_its_template_and_what_the_template_leaves_open() {
        let cases = [
            (Method::PUT, "/put", "/put []"),
            (Method::GET, "/o/b3:00", "/o/{addr} [(\"addr\", \"b3:00\")]"),
            (Method::HEAD, "/o/x", "/o/{addr} [(\"addr\", \"x\")]"),
            (Method::GET, "/o/", "/o/{addr} [(\"addr\", \"\")]"),
            (Method::GET, "/put", "/put not POST, PUT"),
            (Method::DELETE, "/o/x", "/o/{addr} not GET, HEAD"),
            (Method::GET, "/o/x/y", "nothing"),
            (Method::GET, "/o", "nothing"),
            (Method::PUT, "/put/", "nothing"),
            (Method::GET, "//put", "nothing"),
            (Method::GET, "*", "nothing"),
            (
                Method::GET,
                "/a/1/c//e",
                "/a/{b}/c/{d}/e [(\"b\", \"1\"), (\"d\", \"\")]",
            ),
            (Method::GET, "/a/1/c/2/f", "nothing"),
            (Method::GET, "/a/1/c/2", "nothing"),
            (Method::GET, "/a/1/2/c/3/e", "nothing"),
        ];
        for (method, path, expected) in cases {
            assert_eq!(told(method.clone(), path), expected, "{method} {path}");
        }
    }
}
