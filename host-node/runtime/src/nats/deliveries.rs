//! Consumers of `lattice:nats/jetstream`, and what becomes of what they deliver.

use super::{Has, Outcome, Store, View, bindings::lattice::nats::jetstream, called, told, types};
use crate::{
    host::Host,
    network::nats_streams::{OpenConsumer, OpenDelivery},
    operations::{Interface, Kind, Operation},
};
use lattice::nats::{self as driver, Code, Settlement};
use std::time::Duration;
use wasmtime::component::Resource;

const REASON_BYTES_MAX: usize = 256;

impl jetstream::HostConsumer for View<'_> {
    fn drop(&mut self, consumer: Resource<OpenConsumer>) -> wasmtime::Result<()> {
        self.table.delete(consumer)?;
        Ok(())
    }
}

impl jetstream::HostConsumerWithStore<Host> for Has {
    async fn fetch(
        store: &Store<Host>,
        this: Resource<OpenConsumer>,
        max: u32,
        wait: types::Duration,
    ) -> Outcome<Vec<Resource<OpenDelivery>>> {
        let (network, inherited, operation) = called(store, (Interface::Jetstream, Kind::Receive, "fetch"))?;
        let open = store.with(|mut access| access.get().table.get(&this).cloned())?;
        let mut operation = of_consumer(operation, &open);
        let fetched = network.nats_fetch(&open, (max, Duration::from_nanos(wait)), &inherited).await;
        if let Ok(fetched) = &fetched {
            operation = operation.with("messaging.batch.message_count", || fetched.len() as u64);
        }
        match operation.end(fetched) {
            Ok(fetched) => store.with(|mut access| {
                let table = access.get().table;
                let put = fetched.into_iter().map(|delivery| table.push(delivery));
                Ok(Ok(put.collect::<Result<_, _>>()?))
            }),
            Err(failure) => Ok(Err(failure.into())),
        }
    }

    async fn backlog(store: &Store<Host>, this: Resource<OpenConsumer>) -> Outcome<jetstream::Backlog> {
        let (network, inherited, operation) = called(store, (Interface::Jetstream, Kind::Read, "backlog"))?;
        let open = store.with(|mut access| access.get().table.get(&this).cloned())?;
        let operation = of_consumer(operation, &open);
        let asked = async {
            let turn = network.nats_turn(None, (0, false), &inherited).await?;
            turn.run(open.consumer.backlog()).await.map_err(driver::Failure::of_read)
        };
        let backlog = asked.await;
        told(
            operation,
            backlog.map(|driver::Backlog { undelivered, unsettled }| jetstream::Backlog { undelivered, unsettled }),
        )
    }
}

impl jetstream::HostDelivery for View<'_> {
    fn stored(&mut self, this: Resource<OpenDelivery>) -> wasmtime::Result<jetstream::Stored> {
        Ok(self.table.get(&this)?.delivered.stored.clone().into())
    }

    fn attempts(&mut self, this: Resource<OpenDelivery>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&this)?.delivered.attempts)
    }

    fn pending(&mut self, this: Resource<OpenDelivery>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&this)?.delivered.pending)
    }

    fn drop(&mut self, this: Resource<OpenDelivery>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

fn of_consumer(operation: Operation, open: &OpenConsumer) -> Operation {
    let (stream, consumer) = &*open.name;
    operation.on(stream.as_str()).with("messaging.consumer.group.name", || consumer.to_string())
}

async fn settle(store: &Store<Host>, this: Resource<OpenDelivery>, settlement: Settlement) -> Outcome<()> {
    let name = match &settlement {
        Settlement::Ack => "ack",
        Settlement::AckSync => "ack-sync",
        Settlement::Nak(_) => "nak",
        Settlement::Terminate(_) => "terminate",
        Settlement::InProgress => "in-progress",
    };
    let (network, inherited, operation) = called(store, (Interface::Jetstream, Kind::Settle, name))?;
    let open = store.with(|mut access| access.get().table.get(&this).cloned())?;
    let operation = operation.on(&open.delivered.stored.message.subject);
    if let Settlement::Terminate(reason) = &settlement
        && (reason.len() > REASON_BYTES_MAX || reason.contains(char::is_control))
    {
        let text = format!("a reason is one line of at most {REASON_BYTES_MAX} bytes");
        return told(operation, Err(driver::Failure::not(Code::Invalid("reason".into()), text)));
    }
    told(operation, network.nats_settle(&open, settlement, &inherited).await)
}

impl jetstream::HostDeliveryWithStore<Host> for Has {
    async fn ack(store: &Store<Host>, this: Resource<OpenDelivery>) -> Outcome<()> {
        settle(store, this, Settlement::Ack).await
    }

    async fn ack_sync(store: &Store<Host>, this: Resource<OpenDelivery>) -> Outcome<()> {
        settle(store, this, Settlement::AckSync).await
    }

    async fn nak(store: &Store<Host>, this: Resource<OpenDelivery>, delay: Option<types::Duration>) -> Outcome<()> {
        settle(store, this, Settlement::Nak(delay.map(Duration::from_nanos))).await
    }

    async fn terminate(store: &Store<Host>, this: Resource<OpenDelivery>, reason: String) -> Outcome<()> {
        settle(store, this, Settlement::Terminate(reason)).await
    }

    async fn in_progress(store: &Store<Host>, this: Resource<OpenDelivery>) -> Outcome<()> {
        settle(store, this, Settlement::InProgress).await
    }
}
