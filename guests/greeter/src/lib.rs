//! A part of a workload: it answers no requests but exports an interface that another component of the workload imports.
//! See `hello-composed`, which does. In its own language each could be: they share types, not code.

use crate::exports::example::greeter::greet::Guest;

wit_bindgen::generate!({ path: "wit", world: "greeter" });
export!(Greeter);

struct Greeter;

impl Guest for Greeter {
    fn greet(name: String) -> String {
        match std::env::var("GREETING") {
            Ok(greeting) => format!("{greeting}, {name}"),
            Err(_) => format!("Hello, {name}"),
        }
    }
}
