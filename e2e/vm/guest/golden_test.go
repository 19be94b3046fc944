package guest

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testposture"
)

// otherwise is what of e2e/testdata/posture/golden.txt differs here, by what this
// system has: no file of /etc from a file system that is noexec, and a /proc/kcore.
var otherwise = map[string]string{
	"mount below /etc: ro nosuid nodev | ro nosuid nodev noexec":                           "mount below /etc: ro nosuid nodev",
	"devices fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero": "devices core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
}

// TestGolden: what a worker has and may do under SELinux and systemd is what it
// has without, line by line.
func TestGolden(t *testing.T) {
	h := newHost(t)
	h.tolerate("webapp_t") // the probe tries everything
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile("posture/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const top = "/srv/posture"
	h.write(top+"/app/app.py", read("probe.py"))
	h.write(top+"/neighbour/file", "of another vassal's")
	h.write(top+"/secret", "of root's")
	h.run("chmod", "0600", top+"/secret")
	t.Cleanup(func() { os.RemoveAll(top) })
	abstract := service(t, "unix", "@guest-posture")
	env, err := testposture.Environ(read("calls.txt"), top, [5]string{strings.TrimPrefix(abstract, "@"), service(t, "tcp", "127.0.0.1:25432"), "/run/liege/control.sock", top + "/secret", top + "/neighbour/file"})
	if err != nil {
		t.Fatal(err)
	}
	lines := "uid = nobody\ngid = nogroup\nno-initgroups = true\nhttp = 127.0.0.1:0\nchdir = " + top + "/app\nwsgi-file = app.py\n"
	for _, kv := range env {
		lines += "env = " + kv + "\n"
	}
	h.drop("posture", lines)
	addr := h.up("posture").Listen[0]
	var want []string
	for line := range strings.Lines(strings.ReplaceAll(read("golden.txt"), "NAME", "posture")) {
		line = strings.TrimSuffix(line, "\n")
		if now, ok := otherwise[line]; ok {
			line = now
		}
		want = append(want, line)
	}
	_, got, err := get(addr, "/")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, strings.Split(strings.TrimSuffix(got, "\n"), "\n")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
