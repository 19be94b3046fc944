// Package network gives a vassal with net = nat its line out (CONTRACT 5):
//
//	the host            the vassal's own      a generation's
//	┌───────────┐       ┌─────────────┐       ┌──────────────┐
//	│ table inet│ lg…   │ the vassal's│ g7    │ eth0 ADDRESS │
//	│ liege     │═══up══│ rules       │═══════│              │
//	│ masquerade│       │             │ g8    ┌──────────────┐
//	│           │       │             │═══════│ eth0 ADDRESS │
//	└───────────┘       └─────────────┘       └──────────────┘
//
// The namespace in the middle belongs to the vassal, has no process in it, and
// is held by a mount in the run directory: the address, the byte counters and
// what is connected outlive generations and the Emperor. Each generation has a
// namespace of its own, as with net = none: two of one vassal live side by side
// during a reload and both have the same address, but neither's ports, sockets
// and connections are the other's. So that answers find their way, what leaves
// a generation gets an address of the link (linkAddress) on its way to the
// middle and the vassal's there, and the host's on the host.
//
//	n, err := network.Open(dir, name, addresses)   // made, or found as it was
//	err = n.Attach(gen, pid, policy)               // the generation's eth0
//	n.Detach(gen); n.Close()                       // nothing is left
//
// What a generation may reach is decided in the middle, where nobody but root
// comes, by rules of its own generation. The host's table only holds what no
// vassal may do: reach the host itself, or another vassal.
//
// The package is the only importer of netlink and nftables. It changes the
// host's own network in three things: interfaces lg…, the table inet liege, and
// net.ipv4.ip_forward (net.ipv6.conf.all.forwarding with IPv6).
package network
