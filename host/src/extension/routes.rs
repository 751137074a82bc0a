//! The routes of one endpoint: method and path to the extension's own mark for them, the most specific pattern first.

use std::ffi::c_void;

use actix_http::Method;
use matchit::Router;

use super::error::Reason;
use crate::platform::fnv::FnvMap;

/// The most routes that an endpoint may declare: far more than anyone writes by hand, few enough for a runaway loop to end.
pub const ROUTES_MAX: usize = 10_000;

/// One route, as it was declared.
pub struct Route {
    /// The method; `None`: every one.
    pub method: Option<Method>,
    /// The pattern, for people.
    pub pattern: String,
    /// Its parameters' names, in order; the rest is "*".
    pub params: Vec<String>,
    /// `EXT_ROUTE_*`.
    pub flags: u32,
    /// What the extension wants to be called with.
    pub data: RouteData,
    /// What a crash names it by; 0: nothing yet.
    pub mark: u32,
}

/// A pointer that the extension gave for a route: only handed back, never followed here.
#[derive(Clone, Copy)]
pub struct RouteData(usize);

impl RouteData {
    /// Keeps what the extension gave.
    pub fn of(pointer: *mut c_void) -> Self {
        Self(pointer.expose_provenance())
    }

    /// What the extension gave.
    #[inline]
    pub fn pointer(self) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(self.0)
    }
}

/// An endpoint's routes, ready for look-ups.
#[derive(Default)]
pub struct Routes {
    all: Vec<Route>,
    /// Those for GET that have no parameter, which come before all others: most requests are for one of them.
    plain: FnvMap<usize>,
    /// For each method that a route names: its own routes and those for every method, so that one look-up finds the most
    /// specific of both.
    named: Vec<(Method, Router<usize>)>,
    /// For all other methods.
    others: Router<usize>,
}

/// What a look-up found.
pub enum Found<'r, 'p> {
    /// The route, and the values of its parameters where it may have some.
    Route(&'r Route, Option<matchit::Params<'r, 'p>>),
    /// The path is served, by these methods only.
    OtherMethods(Vec<&'r Method>),
    /// Nothing.
    Nothing,
}

impl Routes {
    /// Makes the table of what endpoint `id` declared.
    ///
    /// # Errors
    /// Where a pattern is not well-formed, or a pair of method and pattern stands twice.
    pub fn new(id: &str, all: Vec<Route>) -> Result<Self, Reason> {
        let mut routes = Self {
            all,
            ..Self::default()
        };
        for method in routes.all.iter().filter_map(|route| route.method.clone()) {
            if !routes.named.iter().any(|(named, _)| *named == method) {
                routes.named.push((method, Router::new()));
            }
        }
        let (specific, general): (Vec<usize>, Vec<usize>) =
            (0..routes.all.len()).partition(|index| routes.all[*index].method.is_some());
        for index in specific.into_iter().chain(general) {
            let route = &routes.all[index];
            if route.method == Some(Method::GET) && route.params.is_empty() {
                routes.plain.insert(route.pattern.as_str().into(), index);
            }
            let own = routes
                .named
                .iter_mut()
                .filter(|(named, _)| route.method.as_ref().is_none_or(|method| method == named));
            let is_general = route.method.is_none();
            for router in own.map(|(_, router)| router) {
                insert(router, id, route, index, is_general)?;
            }
            if is_general {
                insert(&mut routes.others, id, route, index, false)?;
            }
        }
        Ok(routes)
    }

    /// Finds what serves a request. HEAD is served by routes for GET.
    #[inline]
    pub fn find<'r, 'p>(&'r self, method: &Method, path: &'p str) -> Found<'r, 'p> {
        if *method == Method::GET
            && let Some(index) = self.plain.get(path)
        {
            return Found::Route(&self.all[*index], None);
        }
        self.find_among_all(method, path)
    }

    #[inline(never)]
    fn find_among_all<'r, 'p>(&'r self, method: &Method, path: &'p str) -> Found<'r, 'p> {
        let get = Method::GET;
        let head = (*method == Method::HEAD).then_some(&get);
        for method in [Some(method), head].into_iter().flatten() {
            if let Ok(found) = self.router(method).at(path) {
                return Found::Route(&self.all[*found.value], Some(found.params));
            }
        }
        let mut allowed: Vec<&Method> = self
            .named
            .iter()
            .filter(|(_, router)| router.at(path).is_ok())
            .map(|(method, _)| method)
            .collect();
        if allowed.is_empty() {
            return Found::Nothing;
        }
        if allowed.contains(&&Method::GET) && !allowed.contains(&&Method::HEAD) {
            allowed.push(&Method::HEAD);
        }
        allowed.push(&Method::OPTIONS);
        Found::OtherMethods(allowed)
    }

    /// Says what a crash names each route by.
    pub fn mark(&mut self, mark: impl Fn(&Route) -> u32) {
        for route in &mut self.all {
            route.mark = mark(route);
        }
    }

    /// All routes, in the order in which they were declared.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.all.iter()
    }

    fn router(&self, method: &Method) -> &Router<usize> {
        self.named
            .iter()
            .find(|(named, _)| named == method)
            .map_or(&self.others, |(_, router)| router)
    }
}

/// Inserts a route, where `may_stand` under a more specific one of the same pattern.
fn insert(
    router: &mut Router<usize>,
    id: &str,
    route: &Route,
    index: usize,
    may_stand: bool,
) -> Result<(), Reason> {
    for pattern in matchit_patterns(&route.pattern) {
        match router.insert(pattern, index) {
            Ok(()) => {}
            Err(matchit::InsertError::Conflict { .. }) if may_stand => {}
            Err(matchit::InsertError::Conflict { .. }) => {
                return Err(Reason::DuplicateRoute {
                    id: id.to_owned(),
                    method: route
                        .method
                        .as_ref()
                        .map_or("of every method".to_owned(), Method::to_string),
                    pattern: route.pattern.clone(),
                });
            }
            Err(problem) => {
                return Err(Reason::BadRoute {
                    id: id.to_owned(),
                    pattern: route.pattern.clone(),
                    problem: problem.to_string(),
                });
            }
        }
    }
    Ok(())
}

/// Our pattern in matchit's syntax: parameters by position, so that two routes may name the same place differently. "/a/*"
/// becomes two, for matchit's rest is never empty and ours may be.
fn matchit_patterns(pattern: &str) -> Vec<String> {
    let mut translated = String::new();
    for (position, segment) in pattern.split('/').enumerate().skip(1) {
        translated.push('/');
        match segment.strip_prefix(':') {
            Some(_) => translated.push_str(&format!("{{p{position}}}")),
            None if segment == "*" => {
                let bare = translated.clone();
                translated.push_str("{*rest}");
                return vec![translated, bare];
            }
            None => translated.push_str(&segment.replace('{', "{{").replace('}', "}}")),
        }
    }
    vec![translated]
}

/// The parameters that a pattern names.
///
/// # Errors
/// What is wrong with the pattern.
pub fn params_of(pattern: &str) -> Result<Vec<String>, &'static str> {
    let Some(rest) = pattern.strip_prefix('/') else {
        return Err("it must begin with /");
    };
    let segments: Vec<&str> = rest.split('/').collect();
    let mut params = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        match segment.strip_prefix(':') {
            Some("") => return Err("a parameter needs a name after its colon"),
            Some(name) if params.contains(&name.to_owned()) => {
                return Err("a parameter stands twice");
            }
            Some(name) => params.push(name.to_owned()),
            None if *segment == "*" && index + 1 == segments.len() => params.push("*".to_owned()),
            None if segment.contains('*') => return Err("a * stands for a whole last segment"),
            None => {}
        }
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(declared: &[(&str, &str)]) -> Result<Routes, Reason> {
        let route = |(method, pattern): &(&str, &str)| Route {
            method: Some(*method)
                .filter(|method| *method != "*")
                .map(|method| method.parse().expect("a method")),
            pattern: (*pattern).to_owned(),
            params: params_of(pattern).expect("a pattern"),
            flags: 0,
            data: RouteData::of(std::ptr::null_mut()),
            mark: 0,
        };
        Routes::new("test", declared.iter().map(route).collect())
    }

    fn found(routes: &Routes, method: &str, path: &str) -> String {
        match routes.find(&method.parse().expect("a method"), path) {
            Found::Route(route, params) => {
                let params = params.unwrap_or_default();
                let values: Vec<_> = route
                    .params
                    .iter()
                    .zip(params.iter())
                    .map(|(name, (_, value))| format!("{name}={value}"))
                    .collect();
                format!("{} {}", route.pattern, values.join(" "))
                    .trim()
                    .to_owned()
            }
            Found::OtherMethods(methods) => methods
                .iter()
                .map(|method| method.as_str())
                .collect::<Vec<_>>()
                .join(","),
            Found::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn the_most_specific_pattern_wins_whatever_the_order() {
        for declared in [
            [
                ("GET", "/*"),
                ("GET", "/a/:id"),
                ("GET", "/a/b"),
                ("GET", "/a/:name/c"),
            ],
            [
                ("GET", "/a/b"),
                ("GET", "/a/:name/c"),
                ("GET", "/a/:id"),
                ("GET", "/*"),
            ],
        ] {
            let routes = routes(&declared).expect("routes");
            assert_eq!(found(&routes, "GET", "/a/b"), "/a/b");
            assert_eq!(found(&routes, "GET", "/a/x%2Fy"), "/a/:id id=x%2Fy");
            assert_eq!(found(&routes, "GET", "/a/x/c"), "/a/:name/c name=x");
            assert_eq!(found(&routes, "GET", "/a/x/d"), "/* *=a/x/d");
            assert_eq!(found(&routes, "GET", "/"), "/*");
            assert_eq!(found(&routes, "GET", "//x"), "/* *=/x");
        }
    }

    #[test]
    fn methods_fall_through_to_what_serves_them() {
        let routes = routes(&[("GET", "/a"), ("*", "/b"), ("POST", "/*")]).expect("routes");
        assert_eq!(found(&routes, "HEAD", "/a"), "/a");
        assert_eq!(found(&routes, "POST", "/a"), "/* *=a");
        assert_eq!(found(&routes, "PROPFIND", "/b"), "/b");
        assert_eq!(found(&routes, "POST", "/b"), "/b");
        assert_eq!(found(&routes, "DELETE", "/a"), "GET,POST,HEAD,OPTIONS");
        assert_eq!(found(&routes, "GET", "/c"), "POST,OPTIONS");
    }

    #[test]
    fn a_plain_route_is_found_by_its_text_and_by_nothing_else() {
        let routes = routes(&[("GET", "/a"), ("GET", "/{b}"), ("GET", "/:c")]).expect("routes");
        assert_eq!(found(&routes, "GET", "/a"), "/a");
        assert_eq!(found(&routes, "GET", "/{b}"), "/{b}");
        assert_eq!(found(&routes, "GET", "/%61"), "/:c c=%61");
        assert_eq!(found(&routes, "GET", "/:c"), "/:c c=:c");
        assert_eq!(found(&routes, "GET", "/a/"), "nothing");
    }

    #[test]
    fn a_route_declared_twice_is_refused() {
        assert!(matches!(
            routes(&[("GET", "/a/:x"), ("GET", "/a/:y")]),
            Err(Reason::DuplicateRoute { .. })
        ));
        assert!(routes(&[("GET", "/a"), ("*", "/a")]).is_ok());
        for pattern in ["a", "", "/:", "/*/a", "/a*", "/:x/:x"] {
            assert!(params_of(pattern).is_err(), "{pattern}");
        }
        assert!(routes(&[("GET", "/{a}/}")]).is_ok());
    }
}
