package deploy

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// demanded is what liege.service must say: the contract with operators.
var demanded = map[string]string{
	"Type": "notify", "NotifyAccess": "main", "Delegate": "yes", "KillMode": "process", "TasksMax": "infinity",
	"LimitNOFILE": "1048576", "FileDescriptorStoreMax": "4096", "OOMPolicy": "continue", "Slice": "liege.slice",
	"TimeoutStopSec": "120", "Restart": "always", "RestartPreventExitStatus": "78", "ExecReload": "kill -HUP $MAINPID",
	"ExecStart": "/usr/libexec/liege/liege-emperor --cgroup /liege.slice/liege-vassals.service",
}

// explained must not stand in liege.service, and the reason must: they are what
// people add to units.
var explained = strings.Fields(`PrivateTmp ProtectHome ProtectSystem PrivateMounts PrivateDevices PrivateNetwork
	ProtectControlGroups ProtectKernelTunables ProtectProc ProcSubset RestrictNamespaces RestrictAddressFamilies
	SystemCallFilter MemoryDenyWriteExecute NoNewPrivileges ProtectKernelLogs ProtectKernelModules ProtectHostname
	SystemCallArchitectures LockPersonality RestrictRealtime RestrictSUIDSGID ProtectClock RuntimeDirectory`)

// forbidden must not stand there either: they give the service a mount
// namespace, a filter, another user or domain, or bind all vassals together.
var forbidden = strings.Fields(`RootDirectory RootImage MountAPIVFS MountFlags BindPaths BindReadOnlyPaths
	ReadWritePaths ReadOnlyPaths InaccessiblePaths ExecPaths NoExecPaths TemporaryFileSystem PrivateUsers PrivateIPC
	DynamicUser User Group SystemCallLog RestrictFileSystems DevicePolicy DeviceAllow IPAddressAllow IPAddressDeny
	RestrictNetworkInterfaces SocketBindAllow SocketBindDeny SELinuxContext AppArmorProfile AmbientCapabilities
	LimitNPROC LimitAS LimitDATA LimitFSIZE LimitCPU MemoryMax MemoryHigh CPUQuota IOWeight StateDirectory LogsDirectory`)

// kept are the capabilities that sandboxes, listeners, hooks and the view of
// other processes need: none of them may be in the unit's list of those dropped.
var kept = strings.Fields(`CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_RESOURCE CAP_SYS_NICE CAP_SETUID
	CAP_SETGID CAP_SETPCAP CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_MKNOD
	CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_RAW CAP_BPF CAP_SETFCAP`)

// settings are a unit's directives with all their values; comments are what the
// comments say.
func settings(text string) (map[string][]string, string) {
	set, comments := map[string][]string{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			comments += line + "\n"
		} else if key, value, ok := strings.Cut(line, "="); ok {
			set[key] = append(set[key], value)
		}
	}
	return set, comments
}

// wrong is what is wrong with liege.service.
func wrong(text string) []string {
	var bad []string
	set, comments := settings(text)
	for key, want := range demanded {
		if got := set[key]; !slices.Equal(got, []string{want}) {
			bad = append(bad, fmt.Sprintf("%s is %q, want %q", key, got, want))
		}
	}
	for _, key := range slices.Concat(explained, forbidden) {
		if _, ok := set[key]; ok {
			bad = append(bad, key+" reaches every vassal")
		}
	}
	for _, key := range explained {
		if !strings.Contains(comments, key) {
			bad = append(bad, key+" is left out without a reason")
		}
	}
	bounds := set["CapabilityBoundingSet"]
	if len(bounds) != 1 || !strings.HasPrefix(bounds[0], "~") {
		return append(bad, fmt.Sprintf("CapabilityBoundingSet is %q, want a list of what is dropped", bounds))
	}
	for _, dropped := range strings.Fields(bounds[0][1:]) {
		if slices.Contains(kept, dropped) {
			bad = append(bad, dropped+" is dropped and needed")
		}
	}
	return bad
}

func unit(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestUnit(t *testing.T) {
	for _, bad := range wrong(unit(t, "liege.service")) {
		t.Error(bad)
	}
}

// TestUnitWrong: each mistake that TestUnit is there for is found.
func TestUnitWrong(t *testing.T) {
	good := unit(t, "liege.service")
	mutants := map[string]string{
		"CAP_SETUID":            strings.Replace(good, "=~CAP_SYS_MODULE", "=~CAP_SETUID CAP_SYS_MODULE", 1),
		"CapabilityBoundingSet": strings.Replace(good, "=~CAP_SYS_MODULE", "=CAP_SYS_MODULE", 1),
	}
	for key, value := range demanded {
		mutants[key] = strings.Replace(good, "\n"+key+"="+value+"\n", "\n", 1)
	}
	for _, key := range slices.Concat(explained, forbidden) {
		mutants[key] = good + key + "=yes\n"
	}
	for _, key := range explained {
		mutants[key+" is left out"] = strings.ReplaceAll(good, key, "X")
	}
	for says, text := range mutants {
		if bad := strings.Join(wrong(text), "\n"); !strings.Contains(bad, says) {
			t.Errorf("a wrong %s is not found; got %q", says, bad)
		}
	}
}

// TestVassalsUnit: the unit of the vassals' cgroup keeps it, whatever becomes
// of its process, and bounds nothing in it.
func TestVassalsUnit(t *testing.T) {
	set, _ := settings(unit(t, "liege-vassals.service"))
	for key, want := range map[string]string{
		"Delegate": "yes", "KillMode": "process", "SendSIGKILL": "no", "TasksMax": "infinity", "OOMPolicy": "continue", "Slice": "liege.slice",
	} {
		if got := set[key]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	for _, key := range []string{"PartOf", "BindsTo", "User", "DevicePolicy", "DeviceAllow", "IPAddressAllow", "IPAddressDeny", "MemoryMax", "MemoryHigh", "CPUQuota", "DisableControllers"} {
		if got, ok := set[key]; ok {
			t.Errorf("%s=%q ends or binds the vassals", key, got)
		}
	}
}
