//! Links of HTML pages that are seen through a proxy.

/// Where links lead instead.
pub(super) struct Links<'a> {
    /// What a path of the server behind begins with on this side.
    pub prefix: &'a str,
    /// Names of the server behind: links to other servers stay.
    pub hosts: [&'a str; 2],
}

impl Links<'_> {
    /// What a link becomes; `None` when it stays.
    pub fn change(&self, link: &str) -> Option<String> {
        let is_scheme = |text: &str| match text.strip_suffix(':') {
            Some(name) => name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)),
            None => text.is_empty(),
        };
        let after_scheme = link.split_once("//").filter(|(scheme, _)| is_scheme(scheme));
        let after_scheme = after_scheme.map(|(_, rest)| rest);
        let path = match after_scheme {
            None => link,
            Some(rest) => {
                let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
                self.hosts.contains(&host).then_some(path)?
            }
        };
        let is_there = path.starts_with(self.prefix);
        match path.starts_with('/') {
            true if is_there => after_scheme.map(|_| path.to_owned()),
            true => Some(format!("{}{path}", self.prefix)),
            false => None,
        }
    }
}

/// Attributes that hold a link, by element.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text, whatever it looks like.
const TEXTS: &[&str] = &[
    "script", "style", "textarea", "title", "xmp", "noembed", "noframes", "iframe",
];

/// The page with its links changed; everything else stays byte for byte.
pub(super) fn change(page: &[u8], links: &Links<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.len() + page.len() / 8);
    let mut reader = Reader { page, at: 0, copied: 0 };
    while reader.skip_to(b"<") {
        if reader.rest().starts_with(b"<!--") {
            reader.skip_to(b"-->");
            continue;
        }
        reader.at += 1;
        let element = reader.word().to_ascii_lowercase();
        if element.first().is_none_or(|byte| !byte.is_ascii_alphabetic()) {
            continue;
        }
        let known = LINKS.iter().find(|(name, _)| name.as_bytes() == element);
        let attributes = known.map(|(_, attributes)| *attributes).unwrap_or_default();
        while let Some((name, from, to)) = reader.attribute() {
            let wanted = attributes.iter().any(|a| a.as_bytes().eq_ignore_ascii_case(name));
            let value = std::str::from_utf8(&page[from..to]).ok().filter(|_| wanted);
            if let Some(changed) = value.and_then(|value| links.change(value)) {
                out.extend_from_slice(&page[reader.copied..from]);
                out.extend_from_slice(changed.as_bytes());
                reader.copied = to;
            }
        }
        if TEXTS.iter().any(|name| name.as_bytes() == element) {
            reader.skip_text(&element);
        }
    }
    out.extend_from_slice(&page[reader.copied..]);
    out
}

struct Reader<'a> {
    page: &'a [u8],
    at: usize,
    /// Everything before is in the output.
    copied: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a [u8] {
        self.page.get(self.at..).unwrap_or_default()
    }

    fn skip_while(&mut self, keep: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let end = rest.iter().position(|byte| !keep(*byte)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// Stands before the next occurrence, or at the end.
    fn skip_to(&mut self, what: &[u8]) -> bool {
        let found = self.rest().windows(what.len()).position(|window| window == what);
        self.at = found.map_or(self.page.len(), |found| self.at + found);
        found.is_some()
    }

    /// Stands before the tag that ends an element of text.
    fn skip_text(&mut self, element: &[u8]) {
        while self.skip_to(b"</") {
            let name = self.rest().get(2..2 + element.len()).unwrap_or_default();
            if name.eq_ignore_ascii_case(element) {
                return;
            }
            self.at += 2;
        }
    }

    fn word(&mut self) -> &'a [u8] {
        self.skip_while(|byte| !byte.is_ascii_whitespace() && !matches!(byte, b'/' | b'>' | b'=' | b'<'))
    }

    /// The next attribute of a tag: its name, and where its value begins and ends. `None` at the tag's end.
    fn attribute(&mut self) -> Option<(&'a [u8], usize, usize)> {
        self.skip_while(|byte| byte.is_ascii_whitespace() || byte == b'/');
        if matches!(self.rest().first(), None | Some(b'>' | b'<')) {
            return None;
        }
        let name = self.word();
        self.skip_while(|byte| byte.is_ascii_whitespace());
        if self.rest().first() != Some(&b'=') {
            return Some((name, self.at, self.at));
        }
        self.at += 1;
        self.skip_while(|byte| byte.is_ascii_whitespace());
        let quote = self.rest().first().copied().filter(|byte| matches!(byte, b'"' | b'\''));
        self.at += usize::from(quote.is_some());
        let from = self.at;
        let value = match quote {
            Some(quote) => self.skip_while(|byte| byte != quote),
            None => self.skip_while(|byte| !byte.is_ascii_whitespace() && byte != b'>'),
        };
        self.at += usize::from(quote.is_some());
        Some((name, from, from + value.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINKS: Links<'static> = Links {
        prefix: "/p/proxy",
        hosts: ["10.0.0.1:80", "cluster:6443"],
    };

    #[test]
    fn links_lead_through_the_proxy() {
        let cases = [
            ("/a?b=/c", Some("/p/proxy/a?b=/c")),
            ("/", Some("/p/proxy/")),
            ("a/b", None),
            ("", None),
            ("#top", None),
            ("/p/proxy/a", None),
            ("http://10.0.0.1:80/a", Some("/p/proxy/a")),
            ("https://cluster:6443/p/proxy/a", Some("/p/proxy/a")),
            ("//10.0.0.1:80/a", Some("/p/proxy/a")),
            ("http://10.0.0.1:80", None),
            ("http://elsewhere/a", None),
            ("//elsewhere/a", None),
            ("mailto:a//b", None),
            (
                "/a?next=http://cluster:6443/b",
                Some("/p/proxy/a?next=http://cluster:6443/b"),
            ),
        ];
        for (link, expected) in cases {
            assert_eq!(LINKS.change(link).as_deref(), expected, "{link}");
        }
    }

    #[test]
    fn pages() {
        let cases = [
            (r#"<a href="/x">t</a>"#, r#"<a href="/p/proxy/x">t</a>"#),
            ("<A HREF='/x' id=/y>/z", "<A HREF='/p/proxy/x' id=/y>/z"),
            ("<img alt src=/x/>", "<img alt src=/p/proxy/x/>"),
            (
                "<img src = \"/x\" usemap=/m>",
                "<img src = \"/p/proxy/x\" usemap=/p/proxy/m>",
            ),
            ("<div href=/x>", "<div href=/x>"),
            (
                "<!-- <a href=/x> --><a href=/y>",
                "<!-- <a href=/x> --><a href=/p/proxy/y>",
            ),
            (
                "<script src=/s>'<a href=\"/x\">'</Script><a href=/y>",
                "<script src=/p/proxy/s>'<a href=\"/x\">'</Script><a href=/p/proxy/y>",
            ),
            ("1 < 2 <a href=/y", "1 < 2 <a href=/p/proxy/y"),
            ("<a href=\"/y", "<a href=\"/p/proxy/y"),
            ("<script>", "<script>"),
            ("</a href=/x><", "</a href=/x><"),
            ("<a =\"/\"><a/href=/x>", "<a =\"/\"><a/href=/p/proxy/x>"),
        ];
        for (page, expected) in cases {
            let changed = change(page.as_bytes(), &LINKS);
            assert_eq!(String::from_utf8_lossy(&changed), expected, "{page}");
        }
    }

    #[test]
    fn a_changed_page_stays() {
        let seeds = [
            "<!doctype html><html manifest=/m><body background='/b'><a href=\"/x?y#z\">t</a><!-- <a href=/c> --></body>",
            "<script src=//cluster:6443/s>'</a>'</script><img src=http://10.0.0.1:80/i usemap = \"#m\" alt>",
        ];
        let seeds = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
        let words = [
            "<a href=", "<script", "</script", "<!--", "-->", "\"", "'", "=", "/", ">", "<", "http://", "\u{e9}",
        ];
        coxswain_fuzz::fuzz("pages", seeds, &words, |page: &Vec<u8>| {
            let changed = change(page, &LINKS);
            assert_eq!(change(&changed, &LINKS), changed);
            Err(format!(
                "{} links",
                changed.len().abs_diff(page.len()) / LINKS.prefix.len()
            ))
        });
    }
}
