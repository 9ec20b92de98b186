//! The files of the page, which its scripts fill from the API.

/// A file and how it is served.
#[derive(Debug, PartialEq, Eq)]
pub struct Asset {
    /// Below the page's own address.
    pub path: &'static str,
    pub content_type: &'static str,
    pub body: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

macro_rules! assets {
    ($($path:literal = $file:literal, $content_type:expr;)*) => {
        /// All of them.
        pub const ALL: &[Asset] = &[$(Asset {
            path: $path,
            content_type: $content_type,
            body: include_str!(concat!("../page/", $file)),
        },)*];
    };
}

assets! {
    "/" = "index.html", HTML;
    "/page/api.js" = "api.js", SCRIPT;
    "/page/app.js" = "app.js", SCRIPT;
    "/page/dom.js" = "dom.js", SCRIPT;
    "/page/format.js" = "format.js", SCRIPT;
    "/page/graph.js" = "graph.js", SCRIPT;
    "/page/health.js" = "health.js", SCRIPT;
    "/page/page.css" = "page.css", STYLE;
    "/page/route.js" = "route.js", SCRIPT;
    "/page/scales.js" = "scales.js", SCRIPT;
    "/page/uplot/uPlot.iife.min.js" = "uplot/uPlot.iife.min.js", SCRIPT;
    "/page/uplot/uPlot.min.css" = "uplot/uPlot.min.css", STYLE;
    "/page/views/chart.js" = "views/chart.js", SCRIPT;
    "/page/views/combo.js" = "views/combo.js", SCRIPT;
    "/page/views/functions.js" = "views/functions.js", SCRIPT;
    "/page/views/hosts.js" = "views/hosts.js", SCRIPT;
    "/page/views/overview.js" = "views/overview.js", SCRIPT;
    "/page/views/parts.js" = "views/parts.js", SCRIPT;
    "/page/views/picture.js" = "views/picture.js", SCRIPT;
    "/page/views/plot.js" = "views/plot.js", SCRIPT;
    "/page/views/rejects.js" = "views/rejects.js", SCRIPT;
    "/page/views/rows.js" = "views/rows.js", SCRIPT;
    "/page/views/windows.js" = "views/windows.js", SCRIPT;
}

/// The file at this path.
pub fn find(path: &str) -> Option<&'static Asset> {
    ALL.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the content security policy refuses must not be in the page: it would do nothing, and nobody would notice.
    #[test]
    fn the_page_needs_no_more_than_its_policy_allows() {
        let page = find("/").unwrap().body.to_ascii_lowercase();
        assert_eq!(page.matches("<script").count(), page.matches(" src=\"page/").count(), "scripts are files");
        for inline in ["<style", " style=", "<img", "<base", "<iframe", " onclick=", " oninput=", "javascript:"] {
            assert!(!page.contains(inline), "{inline}");
        }
        for asset in ALL.iter().filter(|asset| asset.content_type == STYLE) {
            assert!(!asset.body.contains("url(") && !asset.body.contains("@import"), "{}", asset.path);
        }
        // The chart library is the registry's own file, and is kept to the policy by the browser.
        let own = ALL.iter().filter(|asset| asset.content_type == SCRIPT && !asset.path.contains("/uplot/"));
        for asset in own {
            for inline in
                ["innerHTML", "insertAdjacentHTML", "setAttribute(\"style\"", ".style.", "eval(", "document.write"]
            {
                assert!(!asset.body.contains(inline), "{inline} in {}", asset.path);
            }
        }
    }

    #[test]
    fn every_file_that_the_page_names_is_there_and_no_other() {
        let mut named = vec!["/".to_owned()];
        for attribute in ["href=\"page/", "src=\"page/"] {
            let page = find("/").unwrap().body;
            named
                .extend(page.split(attribute).skip(1).map(|rest| format!("/page/{}", rest.split('"').next().unwrap())));
        }
        let scripts = ALL.iter().filter(|asset| asset.content_type == SCRIPT && !asset.path.contains("/uplot/"));
        for script in scripts {
            let folder = script.path.rsplit_once('/').unwrap().0;
            for import in script.body.split(" from \"./").skip(1) {
                named.push(format!("{folder}/{}", import.split('"').next().unwrap()));
            }
            for import in script.body.split(" from \"../").skip(1) {
                let parent = folder.rsplit_once('/').unwrap().0;
                named.push(format!("{parent}/{}", import.split('"').next().unwrap()));
            }
        }
        named.sort();
        named.dedup();
        let mut there: Vec<_> = ALL.iter().map(|asset| asset.path.to_owned()).collect();
        there.sort();
        assert_eq!(named, there);
    }

    #[test]
    fn the_page_is_small() {
        let bytes: usize = ALL.iter().map(|asset| asset.body.len()).sum();
        assert!(bytes < 200_000, "{bytes} bytes: with the answers a first view is to be below 300 KB");
    }
}
