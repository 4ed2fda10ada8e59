// The page is there: a link from outside may lead to a cluster.
reveal();
