package serve

import (
	"errors"
	"fmt"
	"io"
	"os"

	"liege/vassal"
)

// maxPage bounds the file of an error page, in bytes: it is kept in memory.
const maxPage = 1 << 20

// pages reads the error pages, once: of each status the first that is there,
// as in uWSGI. A status none of whose files can be read is a problem of its
// last line.
func pages(of map[int][]vassal.Page) (map[int][]byte, error) {
	if len(of) == 0 {
		return nil, nil
	}
	out := map[int][]byte{}
	for status, list := range of {
		var last error
		for _, p := range list {
			b, err := readPage(p.File)
			if err == nil {
				out[status], last = b, nil
				break
			}
			last = &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotVisible, File: p.At.File, Line: p.At.Line, Key: p.Key, Step: "serve",
				Message: fmt.Sprintf("%s: %v", p.File, err), Hint: "name a file that the app's user can read"}
		}
		if last != nil {
			return nil, last
		}
	}
	return out, nil
}

func readPage(file string) ([]byte, error) {
	f, err := os.Open(file)
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return nil, pe.Err // the message names the file
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("not a regular file")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPage+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxPage:
		return nil, fmt.Errorf("more than %d bytes", maxPage)
	}
	return b, nil
}
