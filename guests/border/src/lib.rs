//! A part of a workload that exports every kind of function and type: plain and async functions, a resource, streams and
//! futures. `border02` and `border03` call it, from WASI 0.2 and 0.3.

use std::cell::RefCell;

use wasip3::spawn_local;
use wasip3::wit_bindgen::{FutureReader, StreamReader, StreamResult, yield_async};

use crate::exports::example::border::{concurrent, plain};

wasip3::wit_bindgen::generate!({ path: "wit", world: "border", runtime_path: "wasip3::wit_bindgen::rt" });
export!(Border);

struct Border;

/// What one read asks for.
const CHUNK_BYTES: usize = 64 * 1024;

struct Page(RefCell<String>);

impl plain::Guest for Border {
    type Page = Page;

    fn add(a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }

    fn close(page: plain::Page) -> u32 {
        page.into_inner::<Page>().0.into_inner().len() as u32
    }
}

impl plain::GuestPage for Page {
    fn new(text: String) -> Self {
        Self(RefCell::new(text))
    }

    fn append(&self, text: String) {
        self.0.borrow_mut().push_str(&text);
    }

    fn text(&self) -> String {
        self.0.borrow().clone()
    }
}

impl concurrent::Guest for Border {
    async fn upper(text: String) -> String {
        yield_async().await;
        text.to_uppercase()
    }

    async fn transform(mut bytes: StreamReader<u8>) -> StreamReader<u8> {
        let (mut writer, reader) = wit_stream::new();
        spawn_local(async move {
            loop {
                let (result, mut chunk) = bytes.read(Vec::with_capacity(CHUNK_BYTES)).await;
                chunk.make_ascii_uppercase();
                if !writer.write_all(chunk).await.is_empty() || !matches!(result, StreamResult::Complete(_)) {
                    return; // nobody reads any more, or all is said
                }
            }
        });
        reader
    }

    async fn later(value: u32) -> FutureReader<u32> {
        let (writer, reader) = wit_future::new(|| 0);
        spawn_local(async move {
            yield_async().await;
            // An error means that nobody asks any more.
            let _ = writer.write(value.wrapping_mul(2)).await;
        });
        reader
    }

    async fn read(page: plain::Page) -> StreamReader<u8> {
        let text = page.into_inner::<Page>().0.into_inner();
        let (mut writer, reader) = wit_stream::new();
        spawn_local(async move {
            writer.write_all(text.into_bytes()).await;
        });
        reader
    }
}
