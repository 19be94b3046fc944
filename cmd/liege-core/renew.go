package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// guardKeys keeps the other processes of this user, the workers among them,
// from reading private keys out of this one's memory, and the kernel from
// writing them into a core dump (prctl(2), PR_SET_DUMPABLE).
func guardKeys(app *vassal.App) error {
	if !app.SpeaksTLS() {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("private keys: prctl: %w", err)
	}
	return nil
}

// renew takes the certificates in f, and tells what is wrong with those that
// it does not take.
func (p *process) renew(f *os.File) {
	notes := vassal.Problems{}
	files, err := readCertificates(f)
	if err != nil {
		notes = vassal.AsProblems(err, "certificates", vassal.CodeBadCertificate)
	} else {
		notes = append(notes, p.core.Renew(files)...)
	}
	for _, n := range notes {
		p.log.Warn(n.Message, "file", n.File, "line", n.Line, "hint", n.Hint)
	}
	if !notes.Failed() {
		p.log.Info("the certificates were renewed")
	}
	if err := p.control.Send(vassal.Message{Type: vassal.Certificates, Notes: notes}); err != nil {
		p.log.Warn("nobody was told about the certificates", "err", err)
	}
}

// readCertificates reads what came with a Certificates message, and closes it.
func readCertificates(f *os.File) (vassal.CertFiles, error) {
	if f == nil {
		return nil, fmt.Errorf("certificates: the message came without a file")
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxApp+1))
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	if len(b) > maxApp {
		return nil, fmt.Errorf("certificates: more than %d bytes", maxApp)
	}
	var files vassal.CertFiles
	if err := json.Unmarshal(b, &files); err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	return files, nil
}
