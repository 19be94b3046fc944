package kernel

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

// TestTransition: which domain a program of stage_t ends in by exec, on an
// ordinary and on a nosuid mount, with and without no_new_privs. Where it was
// not asked for by name it stays where it was, without a word.
func TestTransition(t *testing.T) {
	testenv.Need(t, testenv.Micro, testenv.Enforcing)
	ordinary, nosuid := mountPrograms(t, 0), mountPrograms(t, unix.MS_NOSUID)
	for _, tc := range []struct{ name, dir, steps, program, want string }{
		{"ordinary mount", ordinary, "whoami", "plain", "plain_t"},
		{"nosuid", nosuid, "whoami", "plain", "stage_t"},
		{"no_new_privs", ordinary, "nnp", "plain", "stage_t"},
		{"nosuid, by name", nosuid, "exec=" + context("plain_t"), "plain", errno(unix.EACCES)},
		{"no_new_privs, by name", ordinary, "nnp,exec=" + context("plain_t"), "plain", errno(unix.EPERM)},
		{"nosuid, with the permission", nosuid, "whoami", "free", "free_t"},
		{"no_new_privs, with the permission", ordinary, "nnp", "free", "free_t"},
		{"both, by name, with the permissions", nosuid, "nnp,exec=" + context("free_t"), "free", "free_t"},
		{"both, by name, bounded", nosuid, "nnp,exec=" + context("bounded_t"), "bounded", "bounded_t"},
		{"by name, another program than the entry point", ordinary, "exec=" + context("free_t"), "plain", errno(unix.EACCES)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := context(tc.want)
			if tc.want == errno(unix.EACCES) || tc.want == errno(unix.EPERM) {
				want = "exec: " + tc.want
			}
			got := ask(t, "stage_t", cat(step(tc.steps), []string{filepath.Join(tc.dir, tc.program), probeArg, "whoami"})...)
			if got.out != want {
				t.Errorf("got %q, want %q", got.out, want)
			}
		})
	}
}

// mountPrograms mounts a file system with a copy of this program for each type
// of entry point.
func mountPrograms(t *testing.T, flags uintptr) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	for _, name := range []string{"plain", "free", "bounded"} {
		to := filepath.Join(dir, name)
		label := []byte("u:object_r:" + name + "_exec_t:s0\x00")
		if err := errors.Join(copyFile(self, to), unix.Setxattr(to, "security.selinux", label, 0)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
