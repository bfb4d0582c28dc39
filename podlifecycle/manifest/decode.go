package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	strictjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Decode reads JSON or YAML of any number of documents, and lists in them. An
// object with a problem is left out and told of; the others are given. Nothing
// is defaulted but the namespace.
func Decode(file string, r io.Reader) (Objects, []Problem) {
	d := decoder{file: file}
	data, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	switch {
	case err != nil:
		d.problem(header{}, "", fmt.Errorf("read: %w", err))
	case len(data) > MaxSize:
		d.problem(header{}, "", ErrTooLarge)
	default:
		d.all(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))
	}
	return d.objects, d.problems
}

type decoder struct {
	file     string
	document int
	objects  Objects
	problems []Problem
}

// header is what all kinds have in common, read laxly, to name them.
type header struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Name      any `json:"name"`
		Namespace any `json:"namespace"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

func (h header) name() string {
	name, _ := h.Metadata.Name.(string)
	return name
}

func (h header) namespace() string {
	if namespace, _ := h.Metadata.Namespace.(string); namespace != "" {
		return namespace
	}
	return metav1.NamespaceDefault
}

func (d *decoder) problem(h header, path string, err error) {
	p := Problem{File: d.file, Document: d.document, Kind: h.Kind, Name: h.name(), Field: path, Err: err}
	if p.Name != "" {
		p.Namespace = h.namespace()
	}
	d.problems = append(d.problems, p)
}

func (d *decoder) all(data []byte) {
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		if documents, err := splitJSON(data); err == nil {
			for _, document := range documents {
				d.document++
				d.object(document, false)
			}
			return
		} else if !yamlParses(data) {
			d.problem(header{}, "", fmt.Errorf("%w as JSON: %w", ErrSyntax, err))
			return
		}
	}
	for _, document := range splitYAML(data) {
		d.document++
		d.yaml(document)
	}
}

func yamlParses(data []byte) bool {
	_, err := yaml.YAMLToJSON(data)
	return err == nil
}

// splitJSON reads documents that follow each other.
func splitJSON(data []byte) ([]json.RawMessage, error) {
	var documents []json.RawMessage
	in := json.NewDecoder(bytes.NewReader(data))
	for {
		var document json.RawMessage
		switch err := in.Decode(&document); {
		case err == io.EOF:
			return documents, nil
		case err != nil:
			var syntax *json.SyntaxError
			if errors.As(err, &syntax) {
				// The offset counts from the start of data.
				at := min(int(syntax.Offset), len(data))
				err = fmt.Errorf("line %d: %w", 1+bytes.Count(data[:at], []byte("\n")), err)
			}
			return nil, err
		}
		documents = append(documents, document)
	}
}

// splitYAML cuts at lines that begin with "---". Each document keeps its place
// in the file: as many empty lines stand before it as other lines did, so that
// the parser's line numbers are the file's.
func splitYAML(data []byte) [][]byte {
	var documents [][]byte
	var current []byte
	lines, content := 0, false
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte("---")); ok && (len(bytes.TrimSpace(rest)) == 0 || rest[0] == ' ' || rest[0] == '\t') {
			if content {
				documents = append(documents, current)
			}
			current, content = bytes.Repeat([]byte("\n"), lines), false
			line = rest // may hold content: --- {kind: Pod}
		}
		if text := bytes.TrimSpace(line); len(text) > 0 && text[0] != '#' && string(text) != "..." {
			content = true
		}
		current = append(current, line...)
		lines++
	}
	if content {
		documents = append(documents, current)
	}
	return documents
}

func (d *decoder) yaml(document []byte) {
	data, err := yaml.YAMLToJSONStrict(document)
	if err == nil {
		d.object(data, false)
		return
	}
	// Not strictly, to name the object that has the duplicate.
	var h header
	if data, laxErr := yaml.YAMLToJSON(document); laxErr == nil {
		_ = json.Unmarshal(data, &h)
		d.problem(h, "", fmt.Errorf("%w: %s", ErrDuplicateField, yamlText(err)))
		return
	}
	d.problem(h, "", fmt.Errorf("%w as YAML: %s", ErrSyntax, yamlText(err)))
}

// yamlText makes one line of
//
//	error converting YAML to JSON: yaml: unmarshal errors:
//	  line 7: key "image" already set in map
func yamlText(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	for _, prefix := range []string{"error converting YAML to JSON: ", "yaml: ", "unmarshal errors: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return text
}

func (d *decoder) object(data []byte, inList bool) {
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		return
	}
	var h header
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		d.problem(h, "", fmt.Errorf("not an object: %w", ErrSyntax))
		return
	}
	if err := json.Unmarshal(data, &h); err != nil {
		d.typeProblem(h, err)
		return
	}
	before := len(d.problems)
	switch h.APIVersion + " " + h.Kind {
	case "v1 Pod":
		pod := strict[corev1.Pod](d, h, data)
		if len(d.problems) == before {
			clean(&pod.ObjectMeta)
			pod.Status = corev1.PodStatus{}
			d.objects.Pods = append(d.objects.Pods, pod)
		}
	case "v1 ConfigMap":
		configMap := strict[corev1.ConfigMap](d, h, data)
		if len(d.problems) == before {
			clean(&configMap.ObjectMeta)
			d.objects.ConfigMaps = append(d.objects.ConfigMaps, configMap)
		}
	case "v1 Secret":
		secret := strict[corev1.Secret](d, h, data)
		if len(d.problems) == before {
			clean(&secret.ObjectMeta)
			d.objects.Secrets = append(d.objects.Secrets, secret)
		}
	case "v1 Service":
		service := strict[corev1.Service](d, h, data)
		if len(d.problems) == before {
			clean(&service.ObjectMeta)
			d.objects.Services = append(d.objects.Services, service)
		}
	case "discovery.k8s.io/v1 EndpointSlice":
		slice := strict[discoveryv1.EndpointSlice](d, h, data)
		if len(d.problems) == before {
			clean(&slice.ObjectMeta)
			d.objects.EndpointSlices = append(d.objects.EndpointSlices, slice)
		}
	case "v1 List", "v1 PodList", "v1 ConfigMapList", "v1 SecretList", "v1 ServiceList", "discovery.k8s.io/v1 EndpointSliceList":
		if inList {
			d.problem(h, "items", fmt.Errorf("a list in a list: %w", ErrKind))
			return
		}
		d.list(h)
	default:
		if h.Kind == "" || h.APIVersion == "" {
			d.problem(h, "", fmt.Errorf("apiVersion and kind are required: %w", ErrKind))
			return
		}
		d.problem(h, "kind", fmt.Errorf("%s of %s: %w", h.Kind, h.APIVersion, ErrKind))
	}
}

func (d *decoder) list(h header) {
	kind, _ := strings.CutSuffix(h.Kind, "List")
	for _, item := range h.Items {
		if kind != "" {
			// Items of a typed list may leave their type out.
			var fields map[string]json.RawMessage
			if json.Unmarshal(item, &fields) == nil && fields != nil && fields["kind"] == nil && fields["apiVersion"] == nil {
				fields["kind"], _ = json.Marshal(kind)
				fields["apiVersion"], _ = json.Marshal(h.APIVersion)
				item, _ = json.Marshal(fields)
			}
		}
		d.object(item, true)
	}
}

// strict decodes and adds to d's problems what is wrong.
func strict[T any](d *decoder, h header, data []byte) *T {
	object := new(T)
	strictErrs, err := strictjson.UnmarshalStrict(data, object)
	if err != nil {
		var tree any
		if json.Unmarshal(data, &tree) == nil {
			if p, quantity := badQuantity(nil, "", tree); p != nil {
				d.problem(h, p.String(), fmt.Errorf("%q is not a quantity such as 100m or 64Mi", quantity))
				return nil
			}
		}
		d.typeProblem(h, err)
		return nil
	}
	for _, err := range strictErrs {
		// unknown field "spec.containers[0].imag"
		path := ""
		var withPath strictjson.FieldError
		if errors.As(err, &withPath) {
			path = withPath.FieldPath()
		}
		cause := ErrUnknownField
		if strings.HasPrefix(err.Error(), "duplicate") {
			cause = ErrDuplicateField
		}
		d.problem(h, path, cause)
	}
	return object
}

// typeProblem tells of a value of the wrong type, by its field if that is known.
func (d *decoder) typeProblem(h header, err error) {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		d.problem(h, wrong.Field, fmt.Errorf("%s where %s is wanted", wrong.Value, wrong.Type))
		return
	}
	d.problem(h, "", err)
}

// badQuantity finds the first value that stands where a quantity does and is
// none, because the error of its type does not say where it is.
func badQuantity(p *field.Path, parent string, tree any) (*field.Path, string) {
	switch tree := tree.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(tree)) {
			text, isText := tree[key].(string)
			list := parent == "limits" || parent == "requests" || parent == "overhead"
			if isText && (list || key == "sizeLimit" || key == "divisor") {
				if _, err := resource.ParseQuantity(text); err != nil {
					if list {
						return p.Key(key), text
					}
					return p.Child(key), text
				}
				continue
			}
			if found, text := badQuantity(p.Child(key), key, tree[key]); found != nil {
				return found, text
			}
		}
	case []any:
		for i := range tree {
			if found, text := badQuantity(p.Index(i), "", tree[i]); found != nil {
				return found, text
			}
		}
	}
	return nil, ""
}

// clean drops what only an API server writes.
func clean(meta *metav1.ObjectMeta) {
	if meta.Namespace == "" {
		meta.Namespace = metav1.NamespaceDefault
	}
	meta.ResourceVersion, meta.Generation = "", 0
	meta.CreationTimestamp, meta.DeletionTimestamp, meta.DeletionGracePeriodSeconds = metav1.Time{}, nil, nil
	meta.ManagedFields = nil
}
