package crilog_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nodekit/nodekit/runtimeiface/crilog"
)

var stamp = time.Date(2016, 10, 6, 0, 17, 9, 669794202, time.UTC)

func TestParseLine(t *testing.T) {
	for _, c := range []struct {
		in      string
		stream  string
		partial bool
		data    string
		bad     bool
	}{
		{in: "2016-10-06T00:17:09.669794202Z stdout F text", stream: "stdout", data: "text"},
		{in: "2016-10-06T00:17:09.669794202Z stdout F text\n", stream: "stdout", data: "text"},
		{in: "2016-10-06T00:17:09.669794202Z stderr P  two spaces ", stream: "stderr", partial: true, data: " two spaces "},
		{in: "2016-10-06T02:17:09.669794202+02:00 stdout P:new:tags x", stream: "stdout", partial: true, data: "x"},
		{in: "2016-10-06T00:17:09.669794202Z stdout F ", stream: "stdout"},
		{in: "2016-10-06T00:17:09.669794202Z stdout Q odd tag is full", stream: "stdout", data: "odd tag is full"},
		{in: "", bad: true},
		{in: "2016-10-06T00:17:09.669794202Z", bad: true},
		{in: "yesterday stdout F text", bad: true},
		{in: "2016-10-06T00:17:09.669794202Z stdin F text", bad: true},
		{in: "2016-10-06T00:17:09.669794202Z stdout", bad: true},
		{in: "2016-10-06T00:17:09.669794202Z stdout F", bad: true},
	} {
		r, err := crilog.ParseLine([]byte(c.in))
		if c.bad {
			if !errors.Is(err, crilog.ErrMalformed) {
				t.Errorf("%q: error %v, want ErrMalformed", c.in, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
			continue
		}
		if !r.Time.Equal(stamp) || r.Stream != c.stream || r.Partial != c.partial || string(r.Data) != c.data {
			t.Errorf("%q: got %+v data %q", c.in, r, r.Data)
		}
	}
}

func TestAppendLineAllocatesNothing(t *testing.T) {
	buf := make([]byte, 0, 1024)
	data := []byte("some text")
	if n := testing.AllocsPerRun(100, func() {
		buf = crilog.AppendLine(buf[:0], stamp, crilog.Stdout, false, data)
	}); n != 0 {
		t.Errorf("AppendLine allocates %v times", n)
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte("2016-10-06T00:17:09.669794202Z stdout F text\n"))
	f.Add([]byte("2016-10-06T00:17:09Z stderr P:x \x00"))
	f.Add([]byte("  \n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := crilog.ParseLine(in)
		if err != nil {
			if !errors.Is(err, crilog.ErrMalformed) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if y := r.Time.UTC().Year(); bytes.ContainsRune(r.Data, '\n') || y < 0 || y > 9999 {
			return // AppendLine asks for one line; RFC 3339 for four digits
		}
		again, err := crilog.ParseLine(crilog.AppendLine(nil, r.Time, r.Stream, r.Partial, r.Data))
		if err != nil {
			t.Fatalf("own record not read: %v", err)
		}
		if !again.Time.Equal(r.Time) || again.Stream != r.Stream || again.Partial != r.Partial || !bytes.Equal(again.Data, r.Data) {
			t.Fatalf("round trip: %+v became %+v", r, again)
		}
	})
}

func ExampleAppendLine() {
	t := time.Date(2016, 10, 6, 0, 17, 9, 0, time.UTC)
	var buf []byte
	buf = crilog.AppendLine(buf, t, crilog.Stdout, true, []byte("first half,"))
	buf = crilog.AppendLine(buf, t, crilog.Stdout, false, []byte(" second half"))
	fmt.Printf("%s", buf)
	// Output:
	// 2016-10-06T00:17:09.000000000Z stdout P first half,
	// 2016-10-06T00:17:09.000000000Z stdout F  second half
}

func BenchmarkAppendLineOf100Bytes(b *testing.B) {
	data := bytes.Repeat([]byte("x"), 100)
	var buf []byte
	for b.Loop() {
		buf = crilog.AppendLine(buf[:0], stamp, crilog.Stdout, false, data)
	}
}
