// Everything is set up: follow a link to a cluster.
if (chart) startMap();
reveal();
