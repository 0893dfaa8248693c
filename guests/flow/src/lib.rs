//! A service of WASI 0.3 that makes, takes and turns streams of bytes, and futures of other values.

use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use wit_bindgen::{FutureReader, StreamReader, StreamResult, yield_async};

use crate::exports::example::flow::{futures, streams::Guest};

wit_bindgen::generate!({ path: "wit", world: "flow" });
export!(Flow);

struct Flow;

/// Made or read at once.
const CHUNK: usize = 16 << 10;

static MADE: AtomicU32 = AtomicU32::new(0);
static ABANDONED: AtomicU32 = AtomicU32::new(0);

impl Guest for Flow {
    async fn make(count: u32, good: u32) -> StreamReader<u8> {
        let (mut writer, reader) = wit_stream::new();
        wit_bindgen::spawn_local(async move {
            let mut left = count as usize;
            let mut good = good as usize;
            while left > 0 {
                if good == 0 {
                    panic!("asked to trap in the middle of a stream");
                }
                let size = left.min(good).min(CHUNK);
                let unsent = writer.write_all(vec![1; size]).await;
                MADE.fetch_add((size - unsent.len()) as u32, Relaxed);
                if !unsent.is_empty() {
                    ABANDONED.fetch_add(1, Relaxed);
                    return;
                }
                left -= size;
                good -= size;
            }
        });
        reader
    }

    fn made() -> u32 {
        MADE.load(Relaxed)
    }

    fn abandoned() -> u32 {
        ABANDONED.load(Relaxed)
    }

    async fn sum(mut data: StreamReader<u8>) -> u32 {
        let mut sum = 0;
        while let Some(bytes) = next(&mut data).await {
            sum += bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        }
        sum
    }

    async fn upper(mut data: StreamReader<u8>) -> Result<StreamReader<u8>, String> {
        let first = next(&mut data).await.ok_or("there was nothing")?;
        let (mut writer, reader) = wit_stream::new();
        wit_bindgen::spawn_local(async move {
            let mut bytes = Some(first);
            while let Some(mut chunk) = bytes {
                chunk.make_ascii_uppercase();
                if !writer.write_all(chunk).await.is_empty() {
                    return;
                }
                bytes = next(&mut data).await;
            }
        });
        Ok(reader)
    }
}

static SETTLED: AtomicU32 = AtomicU32::new(0);
static HEARD: Mutex<String> = Mutex::new(String::new());

impl futures::Guest for Flow {
    async fn later(number: u32, turns: u32) -> FutureReader<u32> {
        let (writer, reader) = wit_future::new(|| 0);
        wit_bindgen::spawn_local(async move {
            for _ in 0..turns {
                yield_async().await;
            }
            let _ = writer.write(number).await; // an error: nobody reads it
            SETTLED.fetch_add(1, Relaxed);
        });
        reader
    }

    async fn never(turns: u32) -> FutureReader<String> {
        let (writer, reader) = wit_future::new(String::new);
        wit_bindgen::spawn_local(async move {
            let _writer = writer;
            for _ in 0..turns {
                yield_async().await;
            }
            panic!("asked to trap before a value is there");
        });
        reader
    }

    async fn pack(id: u32, size: u32) -> Option<futures::Parcel> {
        if size == 0 {
            return None;
        }
        let (writer, content) = wit_future::new(|| Err("dropped".to_owned()));
        wit_bindgen::spawn_local(async move {
            let _ = writer.write(Ok(vec![1; size as usize])).await;
        });
        Some(futures::Parcel { id, content })
    }

    async fn hear(number: FutureReader<Result<u32, String>>) -> String {
        let heard = match number.await {
            Ok(number) => format!("number {number}"),
            Err(error) => format!("error: {error}"),
        };
        HEARD.lock().unwrap().clone_from(&heard);
        heard
    }

    fn heard() -> String {
        HEARD.lock().unwrap().clone()
    }

    async fn pass(word: FutureReader<Result<String, String>>) -> FutureReader<Result<String, String>> {
        word
    }

    fn settled() -> u32 {
        SETTLED.load(Relaxed)
    }
}

/// The next bytes; nothing at the end.
async fn next(data: &mut StreamReader<u8>) -> Option<Vec<u8>> {
    let (result, bytes) = data.read(Vec::with_capacity(CHUNK)).await;
    match result {
        StreamResult::Complete(_) => Some(bytes),
        StreamResult::Dropped | StreamResult::Cancelled => (!bytes.is_empty()).then_some(bytes),
    }
}
