//! Visits every state that a model can reach, breadth first, and answers with the shortest way to one that must not be.
//! As much of a model checker as one small model needs: those that are published bring a web server along.

use std::{collections::HashSet, fmt::Debug, hash::Hash};

pub trait Model {
    type State: Clone + Eq + Hash;
    type Action: Copy + Debug;

    fn start(&self) -> Self::State;
    /// What may happen next.
    fn actions(&self, state: &Self::State, actions: &mut Vec<Self::Action>);
    /// What comes of it. `None` is beyond the model's bounds.
    fn after(&self, state: &Self::State, action: Self::Action) -> Option<Self::State>;
    /// What does not hold in a state.
    fn violation(&self, state: &Self::State) -> Option<&'static str>;
    /// Something worth reaching that a state shows: a model in which nothing happens proves nothing.
    fn witnesses(&self, state: &Self::State) -> Option<&'static str>;
}

#[derive(Debug)]
pub struct Search<A> {
    /// Different states that were visited.
    pub states: usize,
    /// What does not hold, and the shortest way there.
    pub counterexample: Option<(&'static str, Vec<A>)>,
    pub witnessed: Vec<&'static str>,
}

/// A state that was reached, and from which one by what. The first was there before.
struct Reached<M: Model> {
    state: M::State,
    by: Option<(usize, M::Action)>,
}

/// Visit all states, or up to the first that must not be.
pub fn search<M: Model>(model: &M) -> Search<M::Action> {
    let start = model.start();
    // Each state once, in the order of discovery: how it was reached is beside it.
    let mut reached: Vec<Reached<M>> = vec![Reached { state: start.clone(), by: None }];
    let mut known = HashSet::from([start]);
    let (mut witnessed, mut actions) = (Vec::new(), Vec::new());
    let mut next = 0;
    while let Some(Reached { state, .. }) = reached.get(next) {
        let state = state.clone();
        if let Some(violation) = model.violation(&state) {
            let counterexample = Some((violation, way(&reached, next)));
            return Search { states: reached.len(), counterexample, witnessed };
        }
        if let Some(witness) = model.witnesses(&state)
            && !witnessed.contains(&witness)
        {
            witnessed.push(witness);
        }
        actions.clear();
        model.actions(&state, &mut actions);
        for action in &actions {
            let Some(after) = model.after(&state, *action) else { continue };
            if known.insert(after.clone()) {
                reached.push(Reached { state: after, by: Some((next, *action)) });
            }
        }
        next += 1;
    }
    Search { states: reached.len(), counterexample: None, witnessed }
}

fn way<M: Model>(reached: &[Reached<M>], to: usize) -> Vec<M::Action> {
    let steps = std::iter::successors(reached.get(to), |step| reached.get(step.by.as_ref()?.0));
    let mut way: Vec<M::Action> = steps.filter_map(|step| step.by.as_ref().map(|(_, action)| *action)).collect();
    way.reverse();
    way
}
