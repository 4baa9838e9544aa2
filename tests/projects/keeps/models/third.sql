{{ config(materialized='table', notes={'of': ['third']}) }}
{{ note() }}
{% if execute %}{% do graph.kept.set.discard('only') %}{% endif %}
select
    '{{ graph.get('kept', {}).get('names', []) | join(',') }}' as names,
    '{{ graph.kept.counter.n if execute }}' as counted,
    '{{ config.get('notes') | tojson }}' as notes,
    '{{ var('things') | join(',') }}' as things
from {{ ref('second') }}
