"""pratima-targetcli: both its roots, the stock one as far as it goes without a kernel."""
