"""What every study is built of: networks, grids, controls, parts of reports, tables."""
