"""How a reconstruction relates to its raw patch and to the unit it came from, in numbers, and what it should beat.

- `likeness`: does it look like the patch;
- `concentration`: how much of the receptive field does it need;
- `sufficiency`: is what it marks what makes the unit fire;
- `reactivation`: does the unit know its own reconstruction;
- `grouping`: are a unit's reconstructions alike;
- `controls`: reconstructions that a good one should beat; `randomising`: networks whose pictures should differ.

`scene`, `responses` and `randomising` know a network; `measuring` brings all together, and `tasks` cuts it into what an
engine can share out; the others are functions of arrays. Unless it says otherwise, a metric takes one reconstruction
(3, h, w) float and one patch (3, h, w) float, does not change when the reconstruction is scaled by any a > 0, and
raises BadInput for shapes that differ and for NaN or infinite values.
"""
