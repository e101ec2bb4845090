"""What slits and spectra are as labelled data: dims, labels, and going over slits one by one.

A slit is a Dataset cut out around one slit: ``sci`` and its variances (cross_dispersion, dispersion), with
``integration`` in front in series. ``cross_dispersion`` and ``dispersion`` are labelled with zero-based detector rows
and columns. Slits of a few sorts, as fixed slits, are nodes of a DataTree. Hundreds of shutter slitlets are one Dataset
with ``slit`` in front: padded at the ends to common lengths with NaN and flags DO_NOT_USE and NON_SCIENCE, with labels
``row`` (slit, cross_dispersion) and ``column`` (slit, dispersion), and what a slit's header says as coordinates along
``slit``. A spectrum is a Dataset with ``flux`` and the like along ``dispersion``, with the same dims in front.
"""
