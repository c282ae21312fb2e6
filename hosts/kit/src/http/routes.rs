//! Which handler answers what.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::http::request::Parts;
use hyper::Method;

use super::answer::Answer;
use super::call::Call;
use super::refusal::Refusal;

type Answering = Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>>;
pub(crate) type Handler = Arc<dyn Fn(Call) -> Answering + Send + Sync>;
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
}

#[derive(Clone)]
struct Template {
    text: &'static str,
    methods: BTreeMap<&'static str, Endpoint>,
}

#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) access: Access,
    pub(crate) allowing: Allowing,
    pub(crate) handler: Handler,
}

pub(crate) enum Found<'a> {
    Endpoint {
        template: &'static str,
        endpoint: &'a Endpoint,
        params: Vec<(&'static str, String)>,
    },
    /// The methods that there are.
    OtherMethod {
        template: &'static str,
        allow: String,
    },
    Nothing,
}

impl Routes {
    /// None.
    pub fn new() -> Self {
        Self::default()
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
            allowing: Arc::new(allowing),
            handler: Arc::new(move |call| Box::pin(handler(call))),
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

    pub(crate) fn find(&self, method: &Method, path: &str) -> Found<'_> {
        for template in &self.templates {
            let Some(params) = matched(template.text, path) else {
                continue;
            };
            let asked = match method.as_str() {
                "HEAD" if !template.methods.contains_key("HEAD") => "GET",
                other => other,
            };
            return match template.methods.get(asked) {
                Some(endpoint) => Found::Endpoint {
                    template: template.text,
                    endpoint,
                    params,
                },
                None => Found::OtherMethod {
                    template: template.text,
                    allow: template.allow(),
                },
            };
        }
        Found::Nothing
    }
}

impl Template {
    fn allow(&self) -> String {
        let mut methods: Vec<&str> = self.methods.keys().copied().collect();
        if self.methods.contains_key("GET") && !self.methods.contains_key("HEAD") {
            methods.push("HEAD");
        }
        methods.sort_unstable();
        methods.join(", ")
    }
}

fn matched(template: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
    let mut params = Vec::new();
    let mut segments = path.split('/');
    for expected in template.split('/') {
        let segment = segments.next()?;
        let name = expected.strip_prefix('{').and_then(|e| e.strip_suffix('}'));
        match name {
            Some(name) => params.push((name, segment.to_owned())),
            None if expected == segment => {}
            None => return None,
        }
    }
    segments.next().is_none().then_some(params)
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
    }

    fn told(method: Method, path: &str) -> String {
        match routes().find(&method, path) {
            Found::Endpoint {
                template, params, ..
            } => format!("{template} {params:?}"),
            Found::OtherMethod { template, allow } => format!("{template} not {allow}"),
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
        ];
        for (method, path, expected) in cases {
            assert_eq!(told(method.clone(), path), expected, "{method} {path}");
        }
    }
}
