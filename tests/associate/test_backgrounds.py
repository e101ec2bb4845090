from nsxr.associate.backgrounds import choose_backgrounds, nod_backgrounds

SHUTTERS = {"PROGRAM": "1", "VISIT": "1", "EXP_TYPE": "NRS_MSASPEC", "GRATING": "PRISM", "TARGNAME": "A"}


def test_nods() -> None:
    header = {"PROGRAM": "1", "VISIT": "1", "TARGNAME": "A", "SUBPXPTS": 2}
    headers = [{**header, "PATT_NUM": n} for n in range(1, 7)] + [{**header, "PATT_NUM": 1, "TARGNAME": "B"}]
    assert nod_backgrounds(headers)[0] == [2, 3, 4, 5]
    assert nod_backgrounds(headers)[3] == [0, 1, 4, 5]
    assert nod_backgrounds(headers)[6] == []


def test_nods_are_backgrounds_of_each_other_unless_there_are_dedicated_ones():
    nods = [SHUTTERS | {"PATT_NUM": n, "EXPOSURE": n} for n in (1, 2, 3)]
    assert choose_backgrounds(nods) == [[1, 2], [0, 2], [0, 1]]
    sky = SHUTTERS | {"BKGDTARG": True, "VISIT": "2", "EXPOSURE": 1, "TARGNAME": "sky"}
    assert choose_backgrounds([*nods, sky]) == [[3], [3], [3], []]
    assert choose_backgrounds([*nods, sky | {"BKGDTARG": 1}]) == [
        [3],
        [3],
        [3],
        [],
    ]  # as attributes of exposures have it
    assert choose_backgrounds([*nods, sky | {"GRATING": "G140M"}]) == [[1, 2], [0, 2], [0, 1], []]


def test_dithers_of_the_slices_are_nods_only_if_they_are_called_so():
    dithers = [SHUTTERS | {"EXP_TYPE": "NRS_IFU", "PATT_NUM": n, "PATTTYPE": "CYCLING", "EXPOSURE": n} for n in (1, 2)]
    assert choose_backgrounds(dithers) == [[], []]
    assert choose_backgrounds([one | {"PATTTYPE": "2-POINT-NOD"} for one in dithers]) == [[1], [0]]
    series = [one | {"EXP_TYPE": "NRS_BRIGHTOBJ"} for one in dithers]
    assert choose_backgrounds(series) == [[], []]
