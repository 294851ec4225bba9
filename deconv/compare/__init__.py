"""How a reconstruction relates to its raw patch and to the unit it came from, in numbers, and what it should beat.

- `likeness`: does it look like the patch;
- `concentration`: how much of the receptive field does it need;
- `sufficiency`: is what it marks what makes the unit fire (RISE's insertion and deletion);
- `reactivation`: does the unit fire at its own reconstruction;
- `grouping`: are a unit's reconstructions alike;
- `similarity`: how alike are two reconstructions of one peak;
- `controls`: pictures that a good reconstruction should beat; `randomising`: networks whose pictures should differ.

These are functions of arrays, `randomising` of networks. `peak_set` joins peaks with the network and the images that
they come from, `measuring` measures them by every metric, `tasks` cuts that into what an engine can share out and keeps
it, and `judging` sets explanations side by side; `path_check` follows pictures and signals layer by layer. Unless it
says otherwise, a metric takes one reconstruction (3, h, w) float and one patch (3, h, w) float, does not change when
the reconstruction is scaled by any a > 0, and raises BadInput for shapes that differ and for NaN or infinite values.
"""

from deconv.errors import needed

with needed("comparing rules", "scikit-image", extra="comparing"):
    import skimage  # noqa: F401 - asked for here, once for all of this room
