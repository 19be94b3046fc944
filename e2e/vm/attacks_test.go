package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"liege/internal/testenv"
)

// attacks are the tests of package e2e on what a tenant does to the host and to
// others, and on what a dead Emperor leaves (docs/security.md): those that need no
// more than a system has, and know no layout of cgroups.
const attacks = "Escape|WorkerEscape|VerifiedFromOutside|SmallLimits|Identity|EmperorKilledInHook|" +
	"LogWithoutEmperor|TwoEmperors|ReloadNearMemoryMax|HandOver|NATReload|Suspend|ListenerBroken|OrphanHoldsLog|" +
	"TenantsFile|ConditionsOfAnotherStart|AppsEnabled"

// TestAttacks boots a system without SELinux, so that nothing but the sandbox is
// asked, and runs there, on cgroup v2 alone, what this machine runs on its own.
func TestAttacks(t *testing.T) {
	testenv.Need(t, testenv.VM)
	t.Parallel()
	w := newWork(t)
	runTests(t, w, Machine{System: buildSystem(t, w), Payload: attacksPayload(t, w), Append: "selinux=0", Limit: 13 * time.Minute})
}

// attacksPayload is a directory with the tests of package e2e, the programs that
// they start, and what they read beside them.
func attacksPayload(t *testing.T, w *Work) string {
	t.Helper()
	dir, err := os.MkdirTemp(w.Dir, "payload-")
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	compile(t, "test", "-c", "-o", in("e2e.test"), "./e2e")
	compile(t, "build", "-o", in("bin")+"/", "./e2e/testdata/hostilecore", "./e2e/testdata/hostilestage")
	for _, args := range [][]string{
		{"chmod", "0755", dir}, // the sandbox runs these as other users
		{"mkdir", "-p", in("e2e"), in("sandbox/seccomp")},
		{"cp", "-r", testenv.Binaries(t) + "/.", in("bin")},
		{"cp", "-r", "../testdata", in("e2e")},
		{"cp", "../../sandbox/seccomp/calls_amd64.txt", in("sandbox/seccomp")},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	choice := os.Getenv("TEST_RUN")
	if choice == "" {
		choice = "^Test(" + attacks + ")$"
	}
	text := fmt.Sprintf("#!/bin/bash\nsystemctl stop liege\nexport TEST_HAVE=root,sysresource,cgroupv2,no-selinux,opentree,nftables,python3,curl TEST_BIN=/mnt/bin\ncd e2e\nexec ../e2e.test -test.v -test.timeout 12m -test.run '%s'\n", choice)
	if err := os.WriteFile(in("run.sh"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
