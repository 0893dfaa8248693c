//! Which schema of the record reads a spec. Each pattern names every field, so that a new one has to be decided about.

use super::{
    ComponentSpec, ComposeSpec, DisruptionSpec, HttpSpec, Limits, Optimize, ReserveSpec, Reuse, RolloutSpec,
    RolloutStep, Route, ScaleTarget, Strategy, WorkloadSpec,
};
use crate::spec::Grants;

impl WorkloadSpec {
    /// The least schema that reads it.
    pub(crate) fn schema(&self) -> u32 {
        let is_plain = self.http.routes.iter().all(Route::is_plain) && self.http.callers.is_none();
        // Those who don't know them would take a workload's name for a host's, and ask DNS.
        let calls = self.all_grants().any(Grants::has_workloads);
        let is_of_schema_4 = [
            self.rollout != RolloutSpec::default(),
            !self.probes.is_empty(),
            self.disruption != DisruptionSpec::default(),
            self.autoscale.is_some(),
            self.parts().any(|part| !part.volumes.is_empty()),
            self.reuse.settings().is_some_and(|reuse| reuse.warm_up.is_some()),
            self.all_grants().any(|grants| !grants.keyvalue.is_empty() || !grants.messaging.is_empty()),
            self.has_configs(),
            self.config_update.is_some(),
            !self.messages.is_empty(),
        ];
        let is_of_schema_6 = [
            self.rollout.strategy != Strategy::default(),
            self.all_grants().any(|grants| !grants.nats.is_empty() || !grants.blobstore.is_empty()),
            self.gpu.is_some(),
            self.secrets().next().is_some(),
            self.autoscale.as_ref().is_some_and(|autoscale| autoscale.target.is_of_schema_6()),
        ];
        // A subscription is an endpoint only where the workload is a micro service.
        if self.micro.is_some() || self.all_grants().any(|grants| grants.nats.is_of_schema_9()) {
            9
        } else if self.reserve != ReserveSpec::default() {
            8
        } else if self.probes.call_functions() {
            7
        } else if is_of_schema_6.contains(&true) {
            6
        } else if self.rollout.analysis.is_some() || self.rollout.steps.iter().any(RolloutStep::is_of_schema_5) {
            5
        } else if is_of_schema_4.contains(&true) {
            4
        } else if !is_plain || calls || !self.placement.is_plain() {
            3
        } else if !self.is_of_schema_1() {
            2
        } else {
            1
        }
    }

    /// Of the workload, and of those of its parts that have some of their own.
    fn all_grants(&self) -> impl Iterator<Item = &Grants> {
        let components = self.components.iter().filter_map(|component| component.grants.as_ref());
        let services = self.services.iter().filter_map(|service| service.grants.as_ref());
        components.chain(services).chain([&self.grants])
    }

    /// Whether it is written with the fields of the first schema only. Of routes and placements those that are plain are;
    /// what [`WorkloadSpec::schema`] looks at before is not looked at again.
    fn is_of_schema_1(&self) -> bool {
        let Self {
            name: _,
            replicas: _,
            class: _,
            components,
            services,
            compose: ComposeSpec { links: _, wac, optimize },
            http: HttpSpec { routes: _, callers: _ },
            schedule,
            messages: _,
            micro: _,
            reuse,
            limits: Limits { memory: _, cpu: _, wall: _, concurrency: _, queue: _, body: _ },
            reserve: _,
            grants,
            volumes,
            gpu: _,
            placement: _,
            rollout: _,
            probes: _,
            autoscale: _,
            config_update: _,
            disruption: _,
        } = self;
        components.iter().all(ComponentSpec::is_of_schema_1)
            && services.is_empty()
            && wac.is_none()
            && *optimize == Optimize::default()
            && schedule.is_empty()
            // Settings are written whole, and `concurrency` is one that is newer.
            && !matches!(reuse, Reuse::On(_))
            && *grants == Grants::default()
            && volumes.is_empty()
    }
}

impl RolloutStep {
    fn is_of_schema_5(&self) -> bool {
        let Self { replicas, weight, pause: _ } = self;
        replicas.is_none() || weight.is_some()
    }
}

impl ScaleTarget {
    fn is_of_schema_6(&self) -> bool {
        match self {
            ScaleTarget::Concurrency(_) | ScaleTarget::Requests(_) | ScaleTarget::Queue(_) => false,
            ScaleTarget::Cpu(_) | ScaleTarget::Pending(_) => true,
        }
    }
}

impl ComponentSpec {
    fn is_of_schema_1(&self) -> bool {
        let Self {
            name: _,
            source: _,
            env: _,
            config: _,
            config_from: _,
            env_from: _,
            secrets: _,
            lazy,
            idle,
            isolate,
            grants,
            volumes,
        } = self;
        !lazy && idle.is_none() && !isolate && grants.is_none() && volumes.is_empty()
    }
}
