//! Names the elements of a page with tables that a build script generated.

use html5ever::{parse_document, tendril::TendrilSink};
use markup5ever_rcdom::{Handle, NodeData, RcDom};

include!(concat!(env!("OUT_DIR"), "/meaning.rs"));

mod words {
    include!(concat!(env!("OUT_DIR"), "/words.rs"));
}

fn walk(node: &Handle, found: &mut Vec<words::Word>) {
    if let NodeData::Element { ref name, .. } = node.data {
        if let Some(meaning) = MEANING.get(&name.local) {
            found.push(words::Word::from(*meaning));
        }
    }
    for child in node.children.borrow().iter() {
        walk(child, found);
    }
}

fn main() {
    let page = "<h1>Title</h1><p>Some <a href='x'>link</a></p>";
    let dom = parse_document(RcDom::default(), Default::default()).one(page);
    let mut found = Vec::new();
    walk(&dom.document, &mut found);
    assert_eq!(found, [word!("heading"), word!("paragraph"), word!("link")]);
    println!("{} of {} kinds", found.len(), env!("CODEGEN_ELEMENTS"));
}
