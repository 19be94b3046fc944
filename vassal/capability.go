package vassal

import "strings"

// Capabilities are those that a vassal may be given, by name without "cap_".
// The others give away the host: who loads modules, mounts, reads any file,
// traces or boots is in no sandbox. The numbers are the kernel's.
var capabilities = []struct {
	name   string
	number int
}{
	{"chown", 0}, {"dac_override", 1}, {"fowner", 3}, {"fsetid", 4}, {"kill", 5}, {"setgid", 6}, {"setuid", 7},
	{"net_bind_service", 10}, {"net_broadcast", 11}, {"net_admin", 12}, {"net_raw", 13}, {"ipc_lock", 14}, {"ipc_owner", 15},
	{"sys_chroot", 18}, {"sys_nice", 23}, {"sys_resource", 24}, {"lease", 28}, {"audit_write", 29}, {"wake_alarm", 35},
}

// Capability returns the number of a capability that a vassal may have, with or
// without "cap_" before its name.
func Capability(name string) (int, bool) {
	name = strings.TrimPrefix(strings.ToLower(name), "cap_")
	for _, c := range capabilities {
		if c.name == name {
			return c.number, true
		}
	}
	return 0, false
}

// CapabilityName returns the name of a capability that a vassal may have, or
// the empty string.
func CapabilityName(number int) string {
	for _, c := range capabilities {
		if c.number == number {
			return c.name
		}
	}
	return ""
}
