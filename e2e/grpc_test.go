package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"liege/internal/testcert"
	"liege/internal/testenv"
)

// TestGRPC: gRPC's own library on both sides: calls, metadata with names that
// only it has, a stream in both directions, errors.
func TestGRPC(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.GRPC)
	dir := kitchen(t)
	site := testcert.New(t, testcert.Cert{Name: "localhost"})
	cert, key := site.Write(t, dir, "site")
	file := filepath.Join(dir, "site.ini")
	lines := "[uwsgi]\nexec = /usr/bin/python3 greeter.py\nexec-protocol = h2c\nhttps = 127.0.0.1:0," + cert + "," + key + "\n"
	if err := errors.Join(copied("testdata/grpc")(dir), os.WriteFile(file, []byte(lines), 0o644)); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, 0, file)
	addr := strings.TrimPrefix(s.await(`https://127\.0\.0\.1:\d+`, 1), "https://")
	cmd := exec.Command(testenv.SystemPython, filepath.Join(dir, "client.py"), addr, cert)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	want := `hello you: 7 b'\x00\x01' [('answer_id.v1', 'done'), ('raw_data-bin', b'\x00\xff')]
8
8
1000005
[] OK
FAILED_PRECONDITION not now
UNIMPLEMENTED Method not found!
`
	if err != nil || string(out) != want {
		t.Errorf("%v: %s\nwant %s\n%s", err, out, want, s.text())
	}
	endServed(t, s)
}
