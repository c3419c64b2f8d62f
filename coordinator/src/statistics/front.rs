/// Which points (gain, harm) lie on the Pareto front: no other has as much gain for less harm, or more gain
/// for as little harm. Points without one of the two do not take part.
pub fn front(points: &[Option<(f64, f64)>]) -> Vec<bool> {
    let beats = |(gain, harm): (f64, f64), (than_gain, than_harm): (f64, f64)| {
        gain >= than_gain && harm <= than_harm && (gain > than_gain || harm < than_harm)
    };
    let undominated = |point: (f64, f64)| !points.iter().flatten().any(|other| beats(*other, point));
    points.iter().map(|point| point.is_some_and(undominated)).collect()
}
