{# Fails when the column's total is further than the tolerance from what it must be. #}
{% test sums_to(model, column_name, total, tolerance=0) %}

select sum({{ column_name }}) as found
from {{ model }}
having abs(sum({{ column_name }}) - {{ total }}) > {{ tolerance }}

{% endtest %}
